import pytest

from jaxvid.core.config import ConfigError
from jaxvid.data.manifest import load_manifest, subset_rows, take_subset


def write(folder, text, name="m.csv"):
    path = folder / name
    path.write_text(text)
    return path


def test_names_are_numbered_over_all_splits_and_paths_resolved(tmp_path):
    path = write(
        tmp_path, "path,label,split\nb.mp4,run,train\n/x/a.mp4,walk,train\nc.mp4,jump,val\n"
    )
    manifest = load_manifest(path, "train")
    assert manifest.class_names == ("jump", "run", "walk")
    assert [row.label for row in manifest.rows] == [1, 2]
    assert [row.path for row in manifest.rows] == [str(tmp_path / "b.mp4"), "/x/a.mp4"]
    assert load_manifest(path, "val", root="/r").rows[0].path == "/r/c.mp4"


def test_label_id_column_wins_and_gives_names(tmp_path):
    path = write(tmp_path, "path,label,label_id\na,walk,2\nb,run,0\n")
    manifest = load_manifest(path)
    assert [row.label for row in manifest.rows] == [2, 0]
    assert manifest.class_names == ("run", "1", "walk")


def test_numeric_labels_are_taken_as_they_are(tmp_path):
    manifest = load_manifest(write(tmp_path, "path,label\na,10\nb,2\n"))
    assert [row.label for row in manifest.rows] == [10, 2]
    assert len(manifest.class_names) == 11


def test_label_map_fixes_the_numbers(tmp_path):
    names = write(tmp_path, "walk\nrun\n", "names.txt")
    path = write(tmp_path, "path,label\na,run\nb,walk\n")
    manifest = load_manifest(path, label_map=str(names))
    assert [row.label for row in manifest.rows] == [1, 0]
    with pytest.raises(ConfigError, match=r"m\.csv line 3: label 'hop'"):
        load_manifest(write(tmp_path, "path,label\na,run\nb,hop\n"), label_map=str(names))


def test_no_labels(tmp_path):
    manifest = load_manifest(write(tmp_path, "path\na\nb\n"))
    assert [row.label for row in manifest.rows] == [-1, -1]
    assert manifest.class_names == ()


def test_a_split_may_be_without_labels(tmp_path):
    path = write(tmp_path, "path,label,split\na,x,train\nb,,test\n")
    assert load_manifest(path, "train").rows[0].label == 0
    assert load_manifest(path, "test").rows[0].label == -1


def test_start_and_end_make_several_clips_of_one_file(tmp_path):
    path = write(tmp_path, "path,start,end\na,0,1.5\na,1.5,\n")
    rows = load_manifest(path).rows
    assert [(r.start, r.end) for r in rows] == [(0.0, 1.5), (1.5, None)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("file,label\na,b\n", r"m\.csv line 1: no column 'path'; it has: file, label"),
        ("path,label\n", r"m\.csv: no rows"),
        ("path,label\na,x\nb\n", r"m\.csv line 3: expected 2 values"),
        ("path,label\na,x\nb,\n", r"m\.csv line 3: empty label"),
        ("path,label_id\na,0\nb,-1\n", r"m\.csv line 3: label '-1' is not a number from 0"),
        ("path,label,label_id\na,x,0\nb,y,0\n", r"line 3: label 0 is called 'y' here and 'x'"),
        ("path,label\na,x\nb,x\na,x\n", r"m\.csv line 4: 'a' is on line 2 already"),
        ("path,start\na,soon\n", r"line 2: start 'soon' is not a number"),
        ("path,start,end\na,3,2\n", r"line 2: end 2\.0 is not after start 3\.0"),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_manifest(write(tmp_path, text))


def test_unknown_split_lists_the_splits(tmp_path):
    path = write(tmp_path, "path,split\na,train\nb,val\n")
    with pytest.raises(ConfigError, match=r"no split 'test'.*train, val"):
        load_manifest(path, "test")
    with pytest.raises(ConfigError, match="no column 'split'"):
        load_manifest(write(tmp_path, "path\na\n"), "test")


def test_missing_file_and_wrong_kind(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_manifest(tmp_path / "none.csv")
    with pytest.raises(ConfigError, match=r"\.csv or \.parquet"):
        load_manifest(write(tmp_path, "", "m.txt"))
    write(tmp_path, "{}", "dataset_info.json")
    with pytest.raises(ConfigError, match=r"needs --config\.data\.source=tfds"):
        load_manifest(tmp_path)


def test_spaces_around_column_names(tmp_path):
    rows = load_manifest(write(tmp_path, "path, label ,split\na,3,train\nb,4,test\n")).rows
    assert [(r.key, r.label) for r in rows] == [("a", 3)]


def test_files_that_are_not_what_they_say(tmp_path):
    (tmp_path / "excel.csv").write_bytes("path\nfiancée.mp4\n".encode("cp1252"))
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and nothing else")
    for name, reason in (("excel.csv", "not UTF-8"), ("damaged.parquet", "can't be read")):
        with pytest.raises(ConfigError, match=rf"{name}: {reason}"):
            load_manifest(tmp_path / name)
    with pytest.raises(ConfigError, match=r"label_map=.*nowhere\.txt: no such file"):
        load_manifest(write(tmp_path, "path,label\na,b\n"), label_map=str(tmp_path / "nowhere.txt"))


def test_parquet_equals_csv(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"path": ["a", "b"], "label": ["x", "y"], "start": [None, 0.5]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    csv = write(tmp_path, "path,label,start\na,x,\nb,y,0.5\n")
    assert load_manifest(tmp_path / "m.parquet").rows == load_manifest(csv).rows


def test_subset_is_balanced_seeded_and_kept(tmp_path):
    lines = [f"c{c}v{i},{c}" for c, n in ((0, 100), (1, 20), (2, 2)) for i in range(n)]
    manifest = load_manifest(write(tmp_path, "path,label\n" + "\n".join(lines) + "\n"))
    chosen = subset_rows(manifest, 0.15, seed=0)
    assert [sum(k.startswith(f"c{c}") for k in chosen) for c in range(3)] == [15, 3, 1]
    assert chosen == subset_rows(manifest, 0.15, seed=0) != subset_rows(manifest, 0.15, seed=1)
    kept = tmp_path / "lists" / "subset.txt"
    assert [r.key for r in take_subset(manifest, 0.15, 0, kept).rows] == [
        row.key for row in manifest.rows if row.key in set(chosen)
    ]
    again = take_subset(manifest, 0.15, 1, kept)  # the list on disk decides, not the seed
    assert {r.key for r in again.rows} == set(chosen)
    with pytest.raises(ConfigError, match=r"no such file .subset is 1"):
        take_subset(manifest, 1.0, 0, tmp_path / "mistyped.txt")
    kept.write_text("stranger\n")
    with pytest.raises(ConfigError, match="'stranger'"):
        take_subset(manifest, 0.15, 0, kept)
