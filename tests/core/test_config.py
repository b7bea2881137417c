"""Configs to dataclasses and back; messages name the field and the nearest valid choice."""

from dataclasses import dataclass, field
from typing import Literal

import pytest
from ml_collections import ConfigDict

from configs.common import base
from jaxvid.core.config import ConfigError, from_config, to_config
from jaxvid.core.run import RunConfig, changed_fields


@dataclass(frozen=True)
class Inner:
    width: int = 4
    ratio: float = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    kind: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (1.0, 2.0)
    maybe: int | None = None


def test_round_trip():
    value = Outer(Inner(3, 0.25), "b", (0.0, 1.0))
    assert from_config(Outer, to_config(value)) == value


def test_json_round_trip_turns_lists_into_tuples():
    stored = ConfigDict({"pair": [3, 4], "inner": {"width": 1}})
    assert from_config(Outer, stored) == Outer(Inner(1), pair=(3.0, 4.0))


def test_unset_optional_takes_a_number_later():
    config = to_config(Outer())
    config.maybe = 7
    assert from_config(Outer, config).maybe == 7
    with pytest.raises(TypeError):
        config.maybe = "seven"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"knid": "a"}, r"config.knid: no such field; did you mean .kind."),
        ({"inner": {"widht": 3}}, r"config.inner.widht: no such field; did you mean 'width'"),
        ({"kind": "c"}, r"config.kind: got 'c'.*Valid: a, b"),
        ({"pair": (1.0,)}, r"config.pair: expected 2 values"),
        ({"inner": {"width": 0.5}}, r"config.inner.width: expected int, got 0.5"),
        ({"inner": {"width": True}}, r"config.inner.width: expected int"),
        ({"inner": 3}, r"config.inner: expected a group"),
    ],
)
def test_errors_name_the_field(given, message):
    with pytest.raises(ConfigError, match=message):
        from_config(Outer, given, "config")


def test_missing_group():
    with pytest.raises(ConfigError, match=r"missing field.*method"):
        from_config(RunConfig, {"data": {}, "optim": {}}, "config")


def test_variants():
    assert base.parse("L,rho=0.95,smoke", rho=0.9) == base.Variant("L", 0.95, smoke=True)
    assert base.parse(None, size="S").size == "S"
    assert base.parse("small").subset == 0.15
    with pytest.raises(ConfigError, match="did you mean 'smoke'"):
        base.parse("smoek")


def test_changed_fields():
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 4, "d": 3}, "e": 5}
    assert changed_fields(old, new) == ["config.b.c: 2 -> 4", "config.e: None -> 5"]
