"""Configs as data: dataclasses to ``ConfigDict`` and back, with errors that name the field.

A config file is plain Python that returns an ``ml_collections.ConfigDict``. Groups that have a
dataclass behind them (``method``, ``data``, every entry of ``optim`` and ``evals``) carry all the
fields of that dataclass, so ``--config.method.rho=0.95`` is checked where it is typed.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict, config_dict

T = TypeVar("T")


class UserError(Exception):
    """Something that the user can mend; entry points print it in one line, without a traceback."""


class ConfigError(UserError, ValueError):
    """A config field is unknown, has the wrong type or a value that can't work."""


def check(ok: bool, where: str, value: Any, rule: str) -> None:
    """Raise :class:`ConfigError` "<where>=<value>: must be <rule>" unless ``ok``."""
    if not ok:
        raise ConfigError(f"{where}={value!r}: must be {rule}")


def suggest(name: str, valid: typing.Iterable[str]) -> str:
    """Text that lists the valid choices, the nearest one first.

    >>> suggest("ro", ["rho", "depth"])
    "did you mean 'rho'? Valid: depth, rho"
    """
    valid = sorted(valid)
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return f"{hint}Valid: {', '.join(valid)}"


def choose(name: str, table: Mapping[str, T], where: str) -> T:
    """``table[name]`` or a :class:`ConfigError` that names the place and the choices."""
    if name not in table:
        raise ConfigError(f"{where}: unknown '{name}'; {suggest(name, table)}")
    return table[name]


def to_config(obj: Any, **head: Any) -> ConfigDict:
    """Dataclass instance to ConfigDict, nested dataclasses included; ``head`` is put first."""
    out = ConfigDict(head, convert_dict=True)
    hints = typing.get_type_hints(type(obj))
    for field in dataclasses.fields(obj):
        value = getattr(obj, field.name)
        if dataclasses.is_dataclass(value):
            value = to_config(value)
        elif value is None:  # so that a flag can still set it
            kinds = [a for a in typing.get_args(hints[field.name]) if isinstance(a, type)]
            value = config_dict.placeholder(next(k for k in kinds if k is not type(None)))
        out[field.name] = value
    return out


def from_config(cls: type[T], config: Mapping[str, Any], where: str = "config") -> T:
    """Build dataclass ``cls`` from ``config``.

    Args:
      cls: a dataclass; fields that are dataclasses are built recursively.
      config: mapping with a subset of its fields.
      where: config path for messages, such as "config.method".

    Raises:
      ConfigError: unknown field (with the nearest valid name) or wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls) if f.init}
    values = {}
    for name, value in config.items():
        path = f"{where}.{name}"
        if name not in names:
            raise ConfigError(f"{path}: no such field; {suggest(name, names)}")
        values[name] = _convert(value, hints[name], path)
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.init
        and f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing field(s) {', '.join(missing)}")
    return cls(**values)


def _convert(value: Any, hint: Any, path: str) -> Any:
    """Value checked against a type hint; lists become tuples, ints become floats."""
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):
            return value
        if not isinstance(value, (Mapping, ConfigDict)):
            raise ConfigError(f"{path}: expected a group of fields, got {value!r}")
        return from_config(hint, value, path)
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
        groups = [arm for arm in arms if dataclasses.is_dataclass(arm)]
        if groups and isinstance(value, (Mapping, ConfigDict)):
            # The group that knows most of the names is meant; it complains about the rest.
            names = {arm: {f.name for f in dataclasses.fields(arm)} for arm in groups}
            likely = max(groups, key=lambda arm: len(names[arm] & set(value)))
            return _convert(value, likely, path)
        for arm in arms:
            try:
                return _convert(value, arm, path)
            except ConfigError:
                continue
        raise ConfigError(f"{path}: expected {hint}, got {value!r}")
    if origin is typing.Literal:
        if value not in typing.get_args(hint):
            choices = [str(a) for a in typing.get_args(hint)]
            raise ConfigError(f"{path}: got {value!r}; {suggest(str(value), choices)}")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(f"{path}: expected a tuple, got {value!r}")
        args = typing.get_args(hint)
        if args and args[-1] is not Ellipsis and len(args) != len(value):
            raise ConfigError(f"{path}: expected {len(args)} values, got {value!r}")
        if not args:
            return tuple(value)
        arms = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_convert(v, a, f"{path}[{i}]") for i, (v, a) in enumerate(zip(value, arms)))
    if origin is dict or hint is dict:
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type):
        good = isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)
        if not good:
            raise ConfigError(f"{path}: expected {hint.__name__}, got {value!r}")
    return value
