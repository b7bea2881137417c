"""Stored runs for tests that read checkpoints: fresh weights of a smoke config, saved as a run."""

import jax
import jax.numpy as jnp

from jaxvid.core.checkpoint import Checkpointer
from jaxvid.core.run import Run
from jaxvid.train import stored_config
from tests.runs import smoke

STEPS = (3, 6)


def save_run(workdir, name: str, cache_dir, **fields):
    """Save ``smoke(name)`` at ``STEPS``; the average of the weights is twice the weights.

    The two steps differ: step 6 holds all parameters of step 3 plus 0.01.
    """
    config = smoke(name, data__cache_dir=str(cache_dir), ema=0.9, **fields)
    run = Run(config, jax.devices()[:1])
    state = run.fresh_state()
    saver = Checkpointer(workdir)
    for step in STEPS:
        params = jax.tree.map(lambda x, up=step > 3: x + 0.01 * up, state.params)
        ema = jax.tree.map(lambda x: 2 * x, params)
        now = state.replace(step=jnp.int32(step), params=params, ema=ema)
        saver.save(step, now, {"config": stored_config(run)})
    saver.close()
    return workdir
