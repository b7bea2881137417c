"""The train step: objectives, accumulation, clipping, the non-finite guard, optimisers.

One step is a pure function ``(state, batch) -> (state, metrics)``. Which objectives are active is
decided on the host from the step number, so a run has a few compiled variants and no ``lax.cond``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxvid.core import trees
from jaxvid.core.config import ConfigError
from jaxvid.core.method import Method
from jaxvid.core.sharding import BATCH_AXES, gather
from jaxvid.core.types import Batch, Context, LossOut, Objective, RunInfo, TrainState, Tree

StepFn = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


@dataclass(frozen=True)
class Optimiser:
    """One entry of ``config.optim``, made for this run.

    Attributes:
      tx: transformation over a flat ``{path: leaf}`` dict; ``update`` takes ``step=``.
      trains: regex of the parameters it owns.
      schedule: learning rate by step, for the log.
    """

    tx: optax.GradientTransformationExtraArgs
    trains: str
    schedule: Callable[[jax.Array], jax.Array]


def check_objectives(objectives: Sequence[Objective], params: Tree) -> dict[str, str]:
    """Every parameter has at most one owner; returns ``{optim entry: trains regex}``.

    Raises:
      ConfigError: an objective matches nothing, two entries claim one parameter, or one entry is
        used with two different regexes.
    """
    owner: dict[str, str] = {}
    regexes: dict[str, str] = {}
    for objective in objectives:
        name, trains = objective.optim, objective.trains
        if regexes.setdefault(name, trains) != trains:
            raise ConfigError(
                f"config.optim.{name}: objectives train '{regexes[name]}' and '{trains}'; "
                "give each its own entry"
            )
        matched = trees.select(trees.flatten(params), trains)
        if not matched:
            raise ConfigError(f"objective {objective.fn}: no parameter matches '{trains}'")
        for path in matched:
            if owner.setdefault(path, name) != name:
                raise ConfigError(f"parameter {path} belongs to both {owner[path]} and {name}")
    return regexes


def init_state(
    method: Method, optimisers: Mapping[str, Optimiser], batch: Batch, key: jax.Array, ema: float
) -> TrainState:
    """Fresh state; ``batch`` gives shapes only (uint8 views of the global batch)."""
    ctx = Context(0, 1, 0.0, True, key)
    rows = next(iter(batch.values())).shape[0]
    batch = dict(batch, rng=jax.random.split(key, rows))
    params, extra = method.init(jax.random.fold_in(key, 0), method.augment(batch, ctx))
    flat = trees.flatten(params)
    opt = {name: o.tx.init(trees.select(flat, o.trains)) for name, o in optimisers.items()}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt=opt,
        extra=extra,
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        skipped=jnp.zeros((2,), jnp.int32),
        key=jax.random.key_data(jax.random.fold_in(key, 1)),
    )


def make_train_step(
    method: Method,
    run: RunInfo,
    optimisers: Mapping[str, Optimiser],
    active: Sequence[tuple[Objective, bool]],
    *,
    mesh: Mesh | None = None,
    shardings: Mapping[str, NamedSharding] | None = None,
    accumulate: int = 1,
    clip_norm: float = 0.0,
    ema: float = 0.0,
) -> StepFn:
    """Train step for one set of active objectives.

    Args:
      method: gives the losses and hooks.
      run: length of the run.
      optimisers: by entry name.
      active: ``(objective, trains)`` in order; False for a dry step (forward only). Neighbours that
        name one ``fn`` share one forward and backward pass of its loss.
      mesh: keeps micro-batches spread over the devices.
      shardings: of the parameters by path, where some are kept in parts over fsdp.
      accumulate: micro-batches per step; the first ``fn`` of a step is accumulated, later ones see
        the whole batch and the carry.
      clip_norm: bound on the gradient norm of every optimiser entry; 0 = off.
      ema: decay of the average of the parameters; 0 = none.
    """
    groups = [list(group) for _, group in groupby(active, key=lambda pair: pair[0].fn)]
    names = tuple(objective.optim for objective, _ in active)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        epoch = state.step.astype(jnp.float32) / run.steps_per_epoch
        rows = next(iter(batch.values())).shape[0]
        # Rows fold in 0 .. rows - 1; what belongs to the whole batch takes the next number.
        ctx = Context(
            state.step, run.total_steps, epoch, True, jax.random.fold_in(key, rows), names, run=run
        )
        row_keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))
        augment_keys, loss_keys = jax.vmap(jax.random.split, out_axes=1)(row_keys)
        batch = method.augment(dict(batch, rng=augment_keys), ctx)
        batch = dict(batch, rng=loss_keys)

        params, opt, extra = trees.flatten(state.params), dict(state.opt), state.extra
        carry, good, metrics = None, jnp.array(True), {}
        for position, group in enumerate(groups):
            params, opt, out, ok, logs = _run_group(
                method, optimisers, group, params, opt, extra, batch, ctx, carry,
                accumulate=accumulate if position == 0 else 1, clip_norm=clip_norm, mesh=mesh,
                shardings=shardings,
            )  # fmt: skip
            good &= ok
            metrics |= logs
            carry = out.carry if position == 0 else carry
            extra = extra if out.updates is None else {**extra, **out.updates}
        params, extra = method.after_update(trees.unflatten(params), extra, carry, ctx)
        average = trees.ema(state.ema, params, ema) if ema else state.ema

        in_a_row = jnp.where(good, 0, state.skipped[1] + 1)
        skipped = jnp.stack([state.skipped[0] + (~good).astype(jnp.int32), in_a_row])
        old = (state.params, dict(state.opt), state.extra, state.ema)
        keep = trees.where(good, (params, opt, extra, average), old)
        new = TrainState(state.step + 1, *keep, skipped, state.key)
        metrics |= {"skipped": skipped[0], "skipped_in_a_row": skipped[1]}
        return new, metrics

    return train_step


def _run_group(
    method, optimisers, group, params, opt, extra, batch, ctx, carry,
    *, accumulate, clip_norm, mesh, shardings,
):  # fmt: skip
    """One fused ``fn``: gradients of its trained parameters, then each optimiser on its part."""
    fn, updates = group[0][0].fn, group[0][0].updates
    prefix = "" if fn == "loss" else f"{fn}/"
    trained = [objective for objective, trains in group if trains]

    def one_update(index, params, opt):
        now = ctx._replace(update=index)
        out, grads = _gradients(
            method, fn, trained, params, extra, batch, now, carry, accumulate, mesh, shardings
        )
        good = jnp.isfinite(out.loss)
        logs = {f"{prefix}loss": out.loss}
        logs |= {f"{prefix}{name}": value for name, value in out.metrics.items()}
        params, opt = dict(params), dict(opt)
        for objective in trained:
            optimiser = optimisers[objective.optim]
            own = trees.select(grads, objective.trains)
            norm = optax.tree.norm(own)
            good &= jnp.isfinite(norm)
            if clip_norm:
                factor = jnp.minimum(1.0, clip_norm / (norm + 1e-6))
                own = jax.tree.map(lambda g, f=factor: g * f, own)
            mine = {path: params[path] for path in own}
            change, opt[objective.optim] = optimiser.tx.update(
                own, opt[objective.optim], mine, step=ctx.step
            )
            params |= optax.apply_updates(mine, change)
            logs[f"grad_norm/{objective.optim}"] = norm
            logs[f"lr/{objective.optim}"] = jnp.asarray(optimiser.schedule(ctx.step))
        return params, opt, out, good, logs

    if updates == 1:
        return one_update(0, params, opt)

    def body(state, index):
        params, opt, _, good, logs = one_update(index, *state)
        return (params, opt), (good, logs)

    (params, opt), (good, logs) = jax.lax.scan(body, (params, opt), jnp.arange(updates))
    logs = jax.tree.map(lambda x: x.mean(0), logs)
    return params, opt, LossOut(logs[f"{prefix}loss"], {}), good.all(), logs


def _gradients(method, fn, trained, params, extra, batch, ctx, carry, accumulate, mesh, shardings):
    """``(LossOut, flat gradients)`` of the parameters that ``trained`` objectives own."""
    wanted = {p for objective in trained for p in trees.select(params, objective.trains)}
    mine = {path: leaf for path, leaf in params.items() if path in wanted}
    rest = {path: leaf for path, leaf in params.items() if path not in wanted}

    def grads_of(batch: Batch) -> tuple[LossOut, dict]:
        def loss(mine):
            whole = gather(rest | mine, shardings) if shardings else rest | mine
            out = getattr(method, fn)(trees.unflatten(whole), extra, batch, ctx, carry)
            return out.loss.astype(jnp.float32), out

        (_, out), grads = jax.value_and_grad(loss, has_aux=True)(mine)
        return out, grads

    if accumulate == 1:
        return grads_of(batch)

    # Micro-batch i holds rows i, i+n, i+2n ...: every device keeps its share of each of them.
    def split(x):
        x = jnp.swapaxes(x.reshape(-1, accumulate, *x.shape[1:]), 0, 1)
        if mesh is None:
            return x
        spec = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))
        return jax.lax.with_sharding_constraint(x, spec)

    def join(x):
        return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])

    def body(total, batch):
        out, grads = grads_of(batch)
        if out.updates is not None:
            raise ConfigError(f"config.accumulate={accumulate}: {fn} updates state per batch")
        return jax.tree.map(jnp.add, total, grads), out

    zero = jax.tree.map(jnp.zeros_like, mine)
    total, outs = jax.lax.scan(body, zero, jax.tree.map(split, dict(batch)))
    grads = jax.tree.map(lambda g: g / accumulate, total)
    means = jax.tree.map(lambda x: x.mean(0), (outs.loss, dict(outs.metrics)))
    return LossOut(*means, jax.tree.map(join, outs.carry)), grads
