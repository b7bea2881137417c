"""The search for the largest batch, and a table over real steps."""

import re

import pytest

from jaxvid.core.plan import Plan
from jaxvid.tools import plan_table
from jaxvid.tools.plan_table import largest_batch, table_row


@pytest.mark.parametrize("start", [8, 64, 800])
@pytest.mark.parametrize("fixed, each, bend", [(100, 7, 0.0), (0, 3, 0.0), (50, 2, 0.01)])
def test_search_ends_at_the_edge(start, fixed, each, bend):
    seen = []

    def probe(batch):
        assert batch % 8 == 0 and batch not in seen
        seen.append(batch)
        needed = fixed + each * batch + bend * batch**2
        return None if needed > 2000 else needed

    best, above = largest_batch(probe, lambda batch: True, 1000, 8, start)
    needed = lambda batch: fixed + each * batch + bend * batch**2  # noqa: E731
    assert needed(best) <= 1000 < needed(above)
    assert above == best + 8 and above in seen
    assert len(seen) <= 12


@pytest.mark.parametrize("start", [16, 128, 2048])
@pytest.mark.parametrize("limit, best", [(1000, (512, 1024)), (5000, (2048, None)), (9, (0, 16))])
def test_batches_that_are_not_allowed_are_passed_over(start, limit, best):
    """Those of a queue of 2048 clips, in steps of 16."""
    seen = []

    def probe(batch):
        assert 2048 % batch == 0
        seen.append(batch)
        return float(batch)

    allowed = lambda batch: batch <= 2048 and 2048 % batch == 0  # noqa: E731
    assert largest_batch(probe, allowed, limit, 16, start) == best
    assert len(seen) == len(set(seen)) <= 8


def test_nothing_fits():
    assert largest_batch(lambda batch: None, lambda batch: True, 1000, 16, 64) == (0, 16)


def test_row_says_what_does_not_fit():
    plan = Plan("16 x TPU v5 lite", 256, 1e12, 2**34, 2**30, None, "Ran out of memory.")
    row = table_row("a.py", plan)
    assert "**does not fit** (Ran out of memory)" in row
    assert row.count("|") == plan_table.HEADER.splitlines()[0].count("|")


def test_real_steps_are_planned_once_and_the_edge_is_found(tmp_path, capsys):
    out = str(tmp_path / "plans.jsonl")
    command = ["configs/videomae_ssv2.py:smoke", "--out", out]
    plan_table.main([*command, "--batches", "8", "16"])
    first = capsys.readouterr().out
    planner = plan_table.Planner(out, [])
    small, large = (planner(command[0], "", batch) for batch in (8, 16))
    assert small.needed < large.needed and small.devices == "8 x cpu"
    assert large.flops == pytest.approx(2 * small.flops, rel=0.01)

    plan_table.main([*command, "--per_device", "2"])  # of eight devices
    assert capsys.readouterr().out.splitlines()[2:] == first.splitlines()[3:]

    between = (small.needed + large.needed) / 2 / 2**30
    plan_table.main([*command, "--search", "--memory_gib", str(between)])
    found = capsys.readouterr()
    assert found.out.splitlines()[2:] == first.splitlines()[2:]
    assert re.search(r"^batch 8: .* MB, fits\nbatch 16: .* MB, too much$", found.err, re.MULTILINE)
    plan_table.main([*command, "--search", "--memory_gib", "9"])  # an epoch has 32 clips
    (row,) = capsys.readouterr().out.splitlines()[2:]
    assert row.split(" | ")[2] == "32"


def test_a_row_that_is_refused_lets_the_others_go_on(tmp_path, capsys):
    out = str(tmp_path / "plans.jsonl")
    command = ["configs/videomae_ssv2.py:smoke", f"--out={out}", "--batches", "6", "8"]
    with pytest.raises(SystemExit):
        plan_table.main(command)
    shown = capsys.readouterr()
    assert "| 8 x cpu | 8 |" in shown.out
    assert "batch 6: config.batch_size=6 must be a multiple" in shown.err
    assert "1 of the rows can't be planned" in shown.err


def test_search_needs_a_limit(tmp_path, capsys):
    with pytest.raises(SystemExit):
        plan_table.main(
            ["configs/videomae_ssv2.py:smoke", "--search", "--out", str(tmp_path / "plans")]
        )
    assert "memory_gib" in capsys.readouterr().err
