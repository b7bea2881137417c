import gzip
import json

import pytest

from jaxvid.data.manifest import load_manifest
from jaxvid.tools.make_manifest import COLUMNS, TOTALS, main


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")


def run(kind, root, out, *more) -> int:
    return main([kind, f"--root={root}", f"--out={out}", *more])


def test_folder_of_classes_gets_a_test_share(tmp_path, capsys):
    root = tmp_path / "videos"
    touch(
        root,
        *[f"{c}/{i}.mp4" for c in ("run", "walk") for i in range(10)],
        "run/notes.txt",
        "run/.half.mp4",
    )  # what a packing that was killed leaves
    assert run("folder", root, tmp_path / "m.csv") == 0
    train, test = (load_manifest(tmp_path / "m.csv", s) for s in ("train", "test"))
    assert (len(train), len(test)) == (16, 4)
    assert train.class_names == ("run", "walk")
    assert {row.label for row in test.rows} == {0, 1}
    assert train.rows[0].path.startswith(str(root))
    assert "videos/run" in (tmp_path / "m.csv").read_text()  # relative: the folder can move
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "16", "16"] in table
    assert ["test", "4", "4"] in table


def test_folder_with_splits_and_without_classes(tmp_path):
    touch(tmp_path / "a", "train/x/1.mp4", "validation/x/2.webm")
    assert run("folder", tmp_path / "a", tmp_path / "a.csv") == 0
    assert len(load_manifest(tmp_path / "a.csv", "val")) == 1
    touch(tmp_path / "b", "1.mp4", "2.mp4")
    assert run("folder", tmp_path / "b", tmp_path / "b.csv", "--test_share=0") == 0
    assert load_manifest(tmp_path / "b.csv").class_names == ()


def test_folder_errors(tmp_path, capsys):
    assert run("folder", tmp_path / "none", tmp_path / "m.csv") == 2
    assert "no such folder" in capsys.readouterr().err
    touch(tmp_path / "mixed", "run/1.mp4", "2.mp4")
    assert run("folder", tmp_path / "mixed", tmp_path / "m.csv") == 2
    assert "'2.mp4' doesn't" in capsys.readouterr().err


@pytest.fixture
def ucf_lists(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Biking\n")
    train = b"Archery/v_Archery_g08_c01.avi 1\nBiking/v_Biking_g09_c02.avi 2\n"
    (lists / "trainlist01.txt.gz").write_bytes(gzip.compress(train))
    (lists / "testlist01.txt").write_text("Biking/v_Biking_g01_c01.avi\n")
    return lists


def test_ucf101(tmp_path, ucf_lists, capsys):
    root = tmp_path / "UCF-101"
    # One file lies flat, one was re-encoded: both are found; the third is missing.
    touch(root, "v_Archery_g08_c01.avi", "Biking/v_Biking_g09_c02.mp4")
    out, lists = tmp_path / "m.csv", f"--lists={ucf_lists}"
    assert run("ucf101", root, out, lists) == 2
    message = capsys.readouterr().err
    assert "train: 2, official 9537" in message
    assert "--any_count" in message
    assert run("ucf101", root, out, lists, "--any_count") == 0
    assert "1 videos are not on disk" in capsys.readouterr().out
    train = load_manifest(out, "train")
    assert [row.label for row in train.rows] == [0, 1]
    assert [row.path for row in train.rows] == [
        str(root / "v_Archery_g08_c01.avi"), str(root / "Biking/v_Biking_g09_c02.mp4")
    ]  # fmt: skip
    assert out.read_text().splitlines()[0] == ",".join(COLUMNS)
    assert "Archery_g08" in out.read_text()
    assert run("ucf101", root, out, lists, "--any_count", "--missing=error") == 2
    assert run("ucf101", root, out, lists, "--any_count", "--missing=keep") == 0
    assert len(load_manifest(out, "test")) == 1


def test_hmdb51(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "clap_test_split2.txt").write_text(
        "film_1_clap_u_nm_0.avi 1 \nfilm_1_clap_u_nm_1.avi 1 \nb.avi 2 \nc.avi 0 \n"
    )
    (lists / "wave_test_split2.txt").write_text("d.avi 1 \n")
    touch(
        tmp_path / "v",
        "clap/film_1_clap_u_nm_0.avi",
        "clap/film_1_clap_u_nm_1.avi",
        "clap/b.avi",
        "clap/c.avi",
        "wave/d.avi",
    )
    arguments = (f"--lists={lists}", "--split=2", "--any_count")
    assert run("hmdb51", tmp_path / "v", tmp_path / "m.csv", *arguments) == 0
    train, test = (load_manifest(tmp_path / "m.csv", s) for s in ("train", "test"))
    assert [row.label for row in train.rows] == [0, 0, 1]
    assert [row.group for row in train.rows] == ["film_1", "film_1", "d.avi"]
    assert [row.key.split("/")[-1] for row in test.rows] == ["b.avi"]


def test_ssv2(tmp_path):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "x-labels.json").write_text(json.dumps({"Moving something up": "1", "Other": "0"}))
    entry = {"id": "7", "template": "Moving [something] up", "label": "moving cup up"}
    (lists / "x-train.json").write_text(json.dumps([entry]))
    (lists / "x-validation.json").write_text(json.dumps([entry | {"id": "8"}]))
    touch(tmp_path / "v", "7.webm", "8.webm")
    arguments = (f"--lists={lists}", "--any_count")
    assert run("ssv2", tmp_path / "v", tmp_path / "m.csv", *arguments) == 0
    val = load_manifest(tmp_path / "m.csv", "val")
    assert (val.rows[0].label, val.class_names[1]) == (1, "Moving something up")


def test_kinetics(tmp_path, capsys):
    lists = tmp_path / "lists"
    lists.mkdir()
    head = "label,youtube_id,time_start,time_end,split\n"
    (lists / "train.csv").write_text(head + "arm wrestling,-abc,3,13,train\n")
    (lists / "validate.csv").write_text(head + "zumba,xyz,10,20,validate\n")
    root = tmp_path / "v"
    touch(root, "arm_wrestling/-abc_000003_000013.mp4", "val/zumba/xyz_000010_000020.mkv")
    assert run("kinetics", root, tmp_path / "m.csv", f"--lists={lists}") == 2
    assert "classes: 2" in capsys.readouterr().err
    assert run("kinetics", root, tmp_path / "m.csv", f"--lists={lists}", "--any_count") == 0
    rows = [load_manifest(tmp_path / "m.csv", s).rows[0] for s in ("train", "val")]
    assert [row.label for row in rows] == [0, 1]
    assert rows[1].path.endswith("val/zumba/xyz_000010_000020.mkv")


def test_lists_of_paths_and_numbers(tmp_path, capsys):
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "train.txt").write_text("a 300 1\nb 120 0\n")
    (lists / "val.txt").write_text("c 0\n")
    touch(tmp_path / "v", "a.mp4", "b.mp4", "c.mp4")
    assert run("list", tmp_path / "v", tmp_path / "m.csv", f"--lists={lists}") == 0
    assert [row.label for row in load_manifest(tmp_path / "m.csv").rows] == [1, 0]
    (lists / "val.txt").write_text("c\n")
    assert run("list", tmp_path / "v", tmp_path / "m.csv", f"--lists={lists}") == 2
    assert "val.txt line 1" in capsys.readouterr().err


def test_official_totals():
    for (kind, _), total in TOTALS.items():
        whole = {"ucf101": 13320, "hmdb51": 5100, "ssv2": 193690}[kind]
        assert sum(n for name, n in total.items() if name != "classes") == whole
