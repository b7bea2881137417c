"""Parity with the public references: every fixture file against the adapter of its kind."""

import importlib
import pkgutil

import jax
import pytest

from tests import golden_adapters
from tests.golden_fixture import OWN, Fixture, golden_dir

ADAPTERS = {}
for module in pkgutil.iter_modules(golden_adapters.__path__):
    ADAPTERS |= importlib.import_module(f"tests.golden_adapters.{module.name}").ADAPTERS
# Those of the named folder, and those that only travel with the project.
FILES = sorted({p.name: p for folder in (OWN, golden_dir()) for p in folder.glob("*.npz")}.values())


def test_fixtures_are_there():
    assert any(p.parent == golden_dir() for p in FILES), f"no fixtures in {golden_dir()}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_golden(path):
    fixture = Fixture(path)
    if fixture.kind not in ADAPTERS:
        pytest.skip(f"no adapter for kind {fixture.kind}")
    with jax.default_matmul_precision("highest"):
        ADAPTERS[fixture.kind](fixture)
    assert not fixture.unchecked("out", "loss", "grad", "after"), "values never compared"
