"""Saving, restoring onto another mesh, starting from other runs, and what goes wrong."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxvid.core import sharding
from jaxvid.core.checkpoint import (
    Checkpointer,
    CheckpointError,
    expand_init_from,
    init_from,
    load_run,
)
from jaxvid.core.config import ConfigError
from jaxvid.core.types import TrainState

META = {"config": {"seed": 5, "method": {"name": "toy"}}}


def make_state(width=64, seed=0):
    key = jax.random.key(seed)
    params = {
        "encoder": {"kernel": jax.random.normal(key, (512, width)), "bias": jnp.zeros(width)},
        "head": {"kernel": jax.random.normal(key, (width, 3))},
    }
    flat = {"encoder/kernel": params["encoder"]["kernel"]}
    return TrainState(
        jnp.array(seed, jnp.int32),
        params,
        {"default": optax.adamw(1e-3).init(flat)},
        {"queue": jnp.arange(6.0)},
        params,
        jnp.zeros(2, jnp.int32),
        jax.random.key_data(key),
    )


def saved(folder, state, step=4):
    saver = Checkpointer(folder)
    saver.save(step, state, META)
    saver.wait()
    return saver


def test_restore_is_bit_equal_on_another_mesh(tmp_path):
    state = make_state()
    mesh = sharding.make_mesh(sharding.MeshConfig(data=2, fsdp=4))
    spec = sharding.shard_tree(state, mesh, ((r"(params|opt|ema)/", "fsdp"),))
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, spec
    )
    saver = saved(tmp_path, state)
    found = saver.restore(4, like)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert found.params["encoder"]["kernel"].sharding.spec == PartitionSpec("fsdp")
    assert saver.meta(4) == META
    saver.close()


def test_load_run_reads_without_the_model(tmp_path):
    state = make_state()
    saved(tmp_path, state).close()
    for path in (tmp_path, tmp_path / "checkpoints", tmp_path / "checkpoints" / "4"):
        config, params, extra, ema, step = load_run(path)
        assert (step, config.method.name) == (4, "toy")
        np.testing.assert_array_equal(params["head"]["kernel"], state.params["head"]["kernel"])
        np.testing.assert_array_equal(extra["queue"], np.arange(6.0))
        assert ema["encoder"]["kernel"].shape == (512, 64)


def test_missing_checkpoints_say_what_there_is(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoints here \(no such file or folder\)"):
        load_run(tmp_path / "nothing")
    saved(tmp_path, make_state()).close()
    with pytest.raises(CheckpointError, match=r"no step 9; complete: \[4\]"):
        load_run(tmp_path, 9)


def test_checkpoint_of_another_model_is_named_leaf_by_leaf(tmp_path):
    saver = saved(tmp_path, make_state(64))
    with pytest.raises(CheckpointError, match=r"head/kernel: stored \(64, 3\), model \(32, 3\)"):
        saver.restore(4, make_state(32))
    saver.close()


def test_init_from_renames_and_reports(tmp_path):
    saved(tmp_path, make_state(64, seed=1)).close()
    fresh = make_state(64, seed=2)
    rows = ((str(tmp_path), "params/encoder/", "params/encoder"),)
    state, table = init_from(fresh, rows)
    old = make_state(64, seed=1)
    np.testing.assert_array_equal(
        state.params["encoder"]["kernel"], old.params["encoder"]["kernel"]
    )
    np.testing.assert_array_equal(state.params["head"]["kernel"], fresh.params["head"]["kernel"])
    status = {path: what for path, what, _ in table}
    assert status["params/encoder/kernel"] == "matched"
    assert status["params/head/kernel"] == "fresh"


def test_init_from_keeps_what_does_not_fit(tmp_path):
    saved(tmp_path, make_state()).close()
    fresh = make_state(seed=2)
    fresh.params["head"]["kernel"] = jnp.ones((64, 5))
    state, table = init_from(fresh, expand_init_from(str(tmp_path)))
    status = {path: what for path, what, _ in table}
    assert status["params/head/kernel"] == "shape"
    assert status["params/encoder/bias"] == "matched"
    np.testing.assert_array_equal(state.params["head"]["kernel"], 1.0)


def test_init_from_that_matches_nothing_is_an_error(tmp_path):
    saved(tmp_path, make_state()).close()
    with pytest.raises(CheckpointError, match=r"nothing in .* matches 'params/decoder/'"):
        init_from(make_state(), ((str(tmp_path), "params/decoder/", "params/decoder"),))


def test_init_from_says_where_pixels_were_normalised_otherwise(tmp_path):
    meta = {**META, "config": {"method": {"mean": [0.1, 0.1, 0.1], "std": [0.2, 0.2, 0.2]}}}
    saver = Checkpointer(tmp_path)
    saver.save(4, make_state(), meta)
    saver.close()
    rows = expand_init_from(
        str(tmp_path), (("params/encoder", "params/encoder"), ("params/", "params"))
    )
    inputs = {"mean": (0.1, 0.1, 0.1), "std": (0.3, 0.3, 0.3)}
    _, table = init_from(make_state(), rows, inputs=inputs)
    ((path, _, note),) = [row for row in table if row[1] == "differs"]
    assert path == "config.method.std"
    assert "had (0.2, 0.2, 0.2), this run has (0.3, 0.3, 0.3)" in note


def test_init_from_forms():
    assert expand_init_from("") == ()
    ((checkpoint, regex, prefix),) = expand_init_from("run")
    assert (checkpoint, prefix) == ("run", "")
    taken = ("params/head/bias", "extra/batch_stats/encoder/mean", "extra/queue/key", "ema/head")
    assert [bool(re.match(regex, path)) for path in taken] == [True, True, False, False]
    rows = (("params/", "params"), ("extra/", "extra/key"))
    assert expand_init_from("run", rows) == (("run", *rows[0]), ("run", *rows[1]))
    with pytest.raises(ConfigError, match=r"config.init_from"):
        expand_init_from((("run", "params/"),))
