"""Planning a run: the compiler's accounts of the real step."""

import pytest

from jaxvid.core.config import ConfigError
from jaxvid.core.plan import make_plan, print_plan
from tests.runs import smoke


def test_accounts_of_a_sharded_step(capsys):
    config = smoke("videomae_ssv2", mesh__data=2, mesh__fsdp=4)
    plan = make_plan(config)
    assert plan["flops"] > 1e7
    assert plan["argument_bytes"] > 0
    assert plan["temp_bytes"] > 0
    assert plan["collectives"].get("all-reduce", 0) > 0
    print_plan(config)
    shown = capsys.readouterr().out
    assert "8 x cpu" in shown
    assert "all-reduce" in shown


def test_one_device_needs_no_collectives():
    assert make_plan(smoke("videomae_ssv2", mesh__data=1))["collectives"] == {}


def test_unknown_topology():
    with pytest.raises(ConfigError, match=r"--topology=v99:1x1"):
        make_plan(smoke("videomae_ssv2"), "v99:1x1")
