"""Small TATS methods, batches and an engine loop for the tests."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core import trees
from jaxvid.core.optim import OptimConfig, make_optimizer, make_schedule
from jaxvid.core.step import Optimiser, check_objectives, init_state, make_train_step
from jaxvid.core.types import Context, RunInfo
from jaxvid.models.vit import VitConfig
from tests.methods.moving_square import make_clips

TINY = {
    "encoder": VitConfig(width=16, depth=1, heads=2, patch=(2, 8, 8)),
    "decoder_width": 12,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "rho": 0.75,
}
# What the quick tier switches off (tests/conftest.py): programs that are compared bit for bit.
FULL = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
}
if jax.__version_info__ < (0, 12):
    FULL["xla_cpu_use_fusion_emitters"] = True
RUN = RunInfo(steps_per_epoch=2, total_steps=30, global_batch=4)
IN_CHARGE = Context(5, 30, 2.5, True, jax.random.key(0), ("default", "policy"), run=RUN)


class Trainer:
    """The engine's step in a loop over made-up clips."""

    def __init__(self, method, run, clips, rate=1e-3, weight_decay=0.0):
        self.method, self.run, self.clips = method, run, clips
        self.objectives = method.objectives(run)
        batch = {"video": jnp.asarray(clips(0))}
        key = jax.random.key(0)
        params = jax.eval_shape(lambda: init_state(method, {}, batch, key, 0.0)).params
        self.optimisers = {}
        for name, regex in check_objectives(self.objectives, params).items():
            config = OptimConfig(
                lr=rate, betas=(0.9, 0.95), schedule="constant", weight_decay=weight_decay
            )
            own = trees.select(trees.flatten(params), regex)
            tx = make_optimizer(config, own, run)
            self.optimisers[name] = Optimiser(tx, regex, make_schedule(config, run))
        self.state = jax.jit(lambda: init_state(method, self.optimisers, batch, key, 0.0))()
        self.steps = {}

    def step(self):
        """One step; returns its metrics."""
        number = int(self.state.step)
        variant = tuple((o, o.trains_at(number)) for o in self.objectives if o.active(number))
        if variant not in self.steps:
            self.steps[variant] = jax.jit(
                make_train_step(self.method, self.run, self.optimisers, variant)
            )
        batch = {"video": jnp.asarray(self.clips(number))}
        self.state, logs = self.steps[variant](self.state, batch)
        return logs


def clips_of_four(number):
    return make_clips(number, 4)[0]


def make_batch(method, seed=0, count=2):
    batch = {"video": jnp.asarray(make_clips(seed, count)[0])}
    batch = jax.jit(lambda b: method.augment(b, None))(batch)
    return batch | {"rng": jax.random.split(jax.random.key(seed), count)}


def make_params(method, seed=0):
    """Fresh parameters with noise, so that no weight is nought."""
    batch = make_batch(method)

    @jax.jit
    def make(key):
        params, _ = method.init(key, batch)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.fold_in(key, 1), len(leaves))
        noise = [0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
        return jax.tree.unflatten(tree, [x + n for x, n in zip(leaves, noise)])

    return make(jax.random.key(seed))


def gradients(method, params, ctx=IN_CHARGE, batch=None, options=None):
    batch = make_batch(method) if batch is None else batch
    loss = lambda p: method.loss(p, {}, batch, ctx, None).loss  # noqa: E731
    return trees.flatten(jax.jit(jax.grad(loss), compiler_options=options)(params))


def nonzero(flat, regex):
    return {path for path, g in trees.select(flat, regex).items() if np.asarray(g).any()}
