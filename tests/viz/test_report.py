import re
from html.parser import HTMLParser

import numpy as np
import pytest

from jaxvid.viz import curves, html, report
from jaxvid.viz.inspection import load_inspection, save_inspection
from jaxvid.viz.runs import read_run
from tests.viz.made_up import make_inspection, make_run

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Checker(HTMLParser):
    """Collects tags and attributes; every tag must be closed by its like."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.links, self.ids, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data")]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())


@pytest.fixture
def workdir(tmp_path):
    path = make_run(tmp_path / "demo", steps=60)
    save_inspection(path, 30, make_inspection(seed=1))
    save_inspection(path, 60, make_inspection())
    return path


def test_page_parses_and_needs_nothing_else(workdir):
    text = report.write_report(workdir).read_text()
    page = Checker(text)
    assert any(curves.SMOOTHED in words for words in page.words)
    assert page.links
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in page.links)
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)
    assert len(page.ids) == len(set(page.ids))
    assert str(workdir.parent) not in text


def test_every_evaluation_and_chance_is_in_a_table(workdir):
    words = Checker(report.write_report(workdir).read_text()).words
    for row in read_run(workdir).latest().values():
        assert html.number(row["metrics"]["top1"]) in words
    assert words.count("25.00") >= 4
    assert {"knn", "linear", "raw", "ema"} <= set(words)


def test_figures_are_there(workdir):
    page = Checker(report.write_report(workdir).read_text())
    # 2 evaluations, 2 clips, 1 normalised clip, 7 scalars that change, 4 confusion matrices.
    assert page.tags.count("svg") == 2 + 2 + 1 + 7 + 4
    assert any("oracle patch statistics" in w for w in page.words)
    assert "At step 60." in page.words


def test_pixel_targets_are_not_called_oracle(tmp_path):
    path = make_run(tmp_path / "demo", steps=20)
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace('"rho"', '"target": "pixel", "rho"'))
    save_inspection(path, 20, make_inspection(adaptive=False))
    text = report.write_report(path).read_text()
    assert "oracle" not in text
    assert "raw pixels" in text


def test_headline_command_and_skipped_updates(workdir):
    words = Checker(report.write_report(workdir).read_text()).words
    rows = read_run(workdir).latest().values()
    linear = next(r["metrics"] for r in rows if (r["eval"], r["weights"]) == ("linear", "raw"))
    assert any("top-1 %, linear" in w for w in words)
    assert words[words.index("tats on embedded", 1) :].count(html.number(linear["top1"])) >= 2
    assert "python -m jaxvid.main --config=configs/tats_demo.py --workdir=runs/x" in words
    assert any(w.startswith("1 update(s) were skipped") for w in words)
    assert "class <a>" in words


def test_a_run_from_a_notebook_gets_the_general_command(workdir):
    (workdir / "banner.txt").write_text("jaxvid\n  command  python -m jaxvid.main -f kernel.json\n")
    assert report.reproduce_command(read_run(workdir)).endswith("--workdir=demo")
    assert "kernel" not in report.reproduce_command(read_run(workdir))


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    (tmp_path / "config.json").write_text('{"method": {"name": "tats"}, "data": {"source": "x"}}')
    page = Checker(report.write_report(tmp_path).read_text())
    assert "No evaluation has run yet." in page.words
    assert "svg" not in page.tags


def test_stored_inspection_comes_back(workdir):
    data, back = make_inspection(), load_inspection(workdir / "figures" / "inspect-60.npz")
    assert back["grid"] == data["grid"]
    np.testing.assert_allclose(back["video"], data["video"], atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(back["mask"], data["mask"])
    np.testing.assert_array_equal(back["error"], data["error"])


def test_command_line(workdir, tmp_path, capsys):
    assert report.main([str(workdir)]) == 0
    assert capsys.readouterr().out.strip() == str(workdir / "report.html")
    assert report.main([str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
