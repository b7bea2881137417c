"""Optimisers from config: schedules, weight-decay masks, layer decay, multipliers, freezing.

Everything works on a flat ``{path: leaf}`` dict. What is special about a parameter is decided by a
regex over its path, never by its number of axes, because stacks of blocks carry a depth axis.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvid.core.config import ConfigError, check
from jaxvid.core.types import RunInfo

Schedule = Callable[[jax.Array | int], jax.Array]
Params = Mapping[str, Any]

_TOKENS = r"mask_token|cls_token|cls_pos|pos_embed(/.*)?"
NO_DECAY = rf"(.*/)?(bias|scale|[^/]*_bias|{_TOKENS})"
STACK = re.compile(r"(.*/)?blocks/.*")
TOP = re.compile(r"(.*/)?decoder/.*")
INPUT = re.compile(rf"(.*/)?(patch_embed/.*|{_TOKENS})")


@dataclass(frozen=True)
class OptimConfig:
    """One entry of ``config.optim``.

    Attributes:
      name: "adamw" (decoupled decay), "adam", "sgd" or "lars" (decay added to the gradient).
      base_lr: peak rate for a global batch of 256, scaled by ``global_batch / 256``
        (a batch counts clips, the repeats of a video included).
      lr: peak rate as it is. Exactly one of ``base_lr`` and ``lr`` is given.
      betas, eps: of Adam and AdamW.
      momentum, nesterov: of SGD and LARS.
      trust: LARS trust coefficient.
      weight_decay: for every parameter whose path ``no_decay`` doesn't match.
      no_decay: regex (``re.fullmatch``) of paths without decay (and without LARS trust ratio).
      schedule: "cosine" to ``min_lr``, "step" or "constant", all after the warm-up.
      horizon_epochs: length of the cosine from the start of the run; 0 = the run. A longer one is
        left before it has fallen.
      milestones, gamma: "step" multiplies the rate by ``gamma`` after each of these epochs.
      warmup_epochs: length of the linear warm-up; ``warmup_steps`` > 0 replaces it.
      warmup_lr, min_lr: first and last rate, scaled as the peak is.
      layer_decay: d < 1 multiplies the rate by d^(depth + 1 - id): id 0 for patch embedding and
        positions, j + 1 for block j, depth + 1 for the rest.
      lr_rules: (regex, multiplier) pairs; the first that matches the whole path applies.
      freeze: regexes of parameters that stay as they are and get no optimiser state.
    """

    name: Literal["adamw", "adam", "sgd", "lars"] = "adamw"
    base_lr: float | None = None
    lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = False
    trust: float = 0.001
    weight_decay: float = 0.05
    no_decay: str = NO_DECAY
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    horizon_epochs: float = 0.0
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    min_lr: float = 0.0
    layer_decay: float = 1.0
    lr_rules: tuple[tuple[str, float], ...] = ()
    freeze: tuple[str, ...] = ()

    def __post_init__(self):
        if (self.base_lr is None) == (self.lr is None):
            raise ConfigError(
                f"optim: give exactly one of base_lr (scaled by batch / 256) and lr (absolute), "
                f"got base_lr={self.base_lr}, lr={self.lr}"
            )
        check(0 < self.layer_decay <= 1, "optim: layer_decay", self.layer_decay, "in (0, 1]")
        for name in ("base_lr", "lr", "weight_decay", "warmup_epochs", "warmup_steps", "warmup_lr",
                     "min_lr", "horizon_epochs", "gamma"):  # fmt: skip
            value = getattr(self, name)
            check(value is None or value >= 0, f"optim: {name}", value, "0 or more")
        for name, values in (("betas", self.betas), ("momentum", (self.momentum,))):
            check(all(0 <= v < 1 for v in values), f"optim: {name}", values, "in [0, 1)")
        steps = self.schedule == "step"
        check(bool(self.milestones) == steps, "optim: milestones", self.milestones,
              "epochs for schedule 'step', and empty for others")  # fmt: skip
        for regex in (self.no_decay, *self.freeze, *(rule for rule, _ in self.lr_rules)):
            try:
                re.compile(regex)
            except re.error as error:
                raise ConfigError(f"optim: '{regex}' is no regex: {error}") from error


class OptimRow(NamedTuple):
    """Parameters that are treated alike, for the start-up table.

    Attributes:
      multiplier: of the learning rate; 0 for frozen parameters.
      weight_decay: decoupled (AdamW) or added to the gradient.
      num_params: scalars in the group.
      example: one of its paths, with the block if it is part of a stack.
    """

    multiplier: float
    weight_decay: float
    num_params: int
    example: str


def make_schedule(config: OptimConfig, run: RunInfo) -> Schedule:
    """Learning rate by global step (0 = first).

    Warm-up of W steps: ``linspace(warmup_lr, peak, W)`` with both ends, so the first step has
    ``warmup_lr``. Then, over the other n steps, ``min + (peak - min) / 2 * (1 + cos(pi i / n))``
    for i = 0..n-1: the peak comes twice, ``min_lr`` is never quite reached (VideoMAE's rule). Or
    ``peak * gamma^(milestones passed)``.

    Args:
      config: rates and lengths.
      run: length of the run; ``global_batch`` scales ``base_lr``.

    Raises:
      ConfigError: the warm-up is longer than the run.

    >>> run = RunInfo(steps_per_epoch=2, total_steps=8, global_batch=512)
    >>> schedule = make_schedule(OptimConfig(base_lr=0.1, warmup_epochs=1.5), run)
    >>> [round(float(schedule(i)), 3) for i in range(4)]
    [0.0, 0.1, 0.2, 0.2]
    """
    scale = 1.0 if config.base_lr is None else run.global_batch / 256
    peak = scale * (config.lr if config.base_lr is None else config.base_lr)
    first, last = scale * config.warmup_lr, scale * config.min_lr
    warm = config.warmup_steps or int(config.warmup_epochs * run.steps_per_epoch)
    horizon = round(config.horizon_epochs * run.steps_per_epoch) or run.total_steps
    rest = horizon - warm
    if run.total_steps < warm:
        raise ConfigError(
            f"optim: the warm-up takes {warm} steps, the run only {run.total_steps}; "
            "lower config.optim.NAME.warmup_epochs or .warmup_steps (NAME is mostly 'default')"
        )

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rising = first + (peak - first) * step / max(warm - 1, 1)
        falling = jnp.full_like(rising, peak)
        if config.schedule == "cosine":
            phase = jnp.clip((step - warm) / max(rest, 1), 0.0, 1.0)
            falling = last + 0.5 * (peak - last) * (1.0 + jnp.cos(jnp.pi * phase))
        for milestone in config.milestones:
            passed = step >= round(milestone * run.steps_per_epoch)
            falling = jnp.where(passed, config.gamma * falling, falling)
        return jnp.where(step < warm, rising, falling)

    return schedule


def layer_ids(params: Params) -> dict[str, np.ndarray | int]:
    """Layer id of every parameter; one id per block for stacked leaves.

    Returns:
      ``{path: id}``: 0 for what touches the input (patch embedding, positions, tokens), 1..depth
      (an array over the depth axis) for the stack of blocks, depth + 1 for the rest, such as a
      whole decoder.

    Raises:
      ConfigError: there are stacks of different depths, so "depth" means nothing.
    """
    stacks = {p for p in params if STACK.fullmatch(p) and not TOP.fullmatch(p)}
    depths = {params[path].shape[0] for path in stacks}
    if len(depths) > 1:
        raise ConfigError(
            f"optim: layer_decay needs one stack of blocks, these have depths {sorted(depths)}"
        )
    depth = max(depths, default=0)
    ids: dict[str, np.ndarray | int] = {}
    for path in params:
        ids[path] = np.arange(1, depth + 1) if path in stacks else depth + 1
        if INPUT.fullmatch(path) and not TOP.fullmatch(path):
            ids[path] = 0
    return ids


def lr_multipliers(config: OptimConfig, params: Params) -> dict[str, np.ndarray]:
    """Factor on the learning rate of every parameter, shaped to broadcast with its leaf.

    Raises:
      ConfigError: a rule or a freeze regex matches no parameter.
    """
    scales: dict[str, np.ndarray] = {path: np.ones((), np.float32) for path in params}
    if config.layer_decay != 1.0:
        ids = layer_ids(params)
        top = max((int(np.max(i)) for i in ids.values()), default=0)
        for path, index in ids.items():
            scale = np.asarray(config.layer_decay ** (top - np.asarray(index)), np.float32)
            tail = (1,) * (len(params[path].shape) - 1) if scale.ndim else ()
            scales[path] = scale.reshape(scale.shape + tail)
    for path in params:
        for regex, factor in config.lr_rules:
            if re.fullmatch(regex, path):
                scales[path] = scales[path] * np.float32(factor)
                break
        if any(re.fullmatch(regex, path) for regex in config.freeze):
            scales[path] = np.zeros_like(scales[path])
    for regex in (*config.freeze, *(rule for rule, _ in config.lr_rules)):
        if not any(re.fullmatch(regex, path) for path in params):
            raise ConfigError(
                f"optim: '{regex}' matches no parameter, such as {next(iter(params))}"
            )
    return scales


def decays(config: OptimConfig, path: str) -> bool:
    """Whether weight decay acts on the parameter at ``path``."""
    return config.weight_decay != 0 and not re.fullmatch(config.no_decay, path)


def make_optimizer(
    config: OptimConfig, params: Params, run: RunInfo
) -> optax.GradientTransformationExtraArgs:
    """Optimiser of one entry over its flat ``{path: leaf}`` parameters.

    ``update(grads, state, params, step=...)`` takes the global step: the schedule follows it, so
    an objective that starts late or rests gets the rate of the moment, while Adam's bias correction
    counts its own updates.

    Args:
      config: the entry.
      params: its parameters; only paths and shapes are read.
      run: length of the run.

    Returns:
      A transformation whose updates are added to the parameters (``optax.apply_updates``).
    """
    schedule = make_schedule(config, run)
    scales = lr_multipliers(config, params)
    frozen = {p for p in params if any(re.fullmatch(regex, p) for regex in config.freeze)}
    direction = _direction(config, [path for path in params if path not in frozen])

    def live(flat):
        return {path: leaf for path, leaf in flat.items() if path not in frozen}

    def init(params):
        return direction.init(live(params))

    def update(grads, state, params, *, step, **_):
        rate = schedule(step)
        change, state = direction.update(live(grads), state, live(params))
        change = {path: -(rate * scales[path]) * leaf for path, leaf in change.items()}
        return change | {path: jnp.zeros_like(params[path]) for path in frozen}, state

    return optax.GradientTransformationExtraArgs(init, update)


def describe(config: OptimConfig, params: Params) -> list[OptimRow]:
    """Groups of equally treated parameters, the fastest first."""
    groups: dict[tuple[float, float], tuple[int, str]] = {}
    for path, scale in lr_multipliers(config, params).items():
        decay = config.weight_decay if decays(config, path) else 0.0
        size = int(np.prod(params[path].shape)) // scale.size
        for block, factor in enumerate(scale.ravel()):
            name = path.replace("blocks/", f"blocks[{block}]/") if scale.ndim else path
            total, example = groups.get((float(factor), decay), (0, name))
            groups[(float(factor), decay)] = (total + size, example)
    return [OptimRow(*key, *groups[key]) for key in sorted(groups, reverse=True)]


def _direction(config: OptimConfig, paths: list[str]) -> optax.GradientTransformation:
    mask = {path: decays(config, path) for path in paths}
    decay = optax.add_decayed_weights(config.weight_decay, mask)
    adam = optax.scale_by_adam(*config.betas, eps=config.eps)
    if config.name == "adamw":
        return optax.chain(adam, decay)
    if config.name == "adam":
        return optax.chain(decay, adam)
    trace = optax.trace(config.momentum, config.nesterov) if config.momentum else optax.identity()
    if config.name == "sgd":
        return optax.chain(decay, trace)
    return optax.chain(decay, _trust_ratio(config), trace)


def _trust_ratio(config: OptimConfig) -> optax.GradientTransformation:
    """LARS: every layer's step has the norm ``trust * |p|``, blocks of a stack taken singly."""

    def norm(path, leaf):
        stacked = bool(STACK.fullmatch(path))
        axes = tuple(range(int(stacked), leaf.ndim))
        return jnp.sqrt(jnp.sum(jnp.square(leaf), axes, keepdims=True))

    def one(path, change, param):
        if re.fullmatch(config.no_decay, path):
            return change
        size, length = norm(path, param), norm(path, change)
        good = (size > 0) & (length > 0)
        return change * jnp.where(good, config.trust * size / jnp.where(good, length, 1.0), 1.0)

    def update(changes, params):
        return {path: one(path, leaf, params[path]) for path, leaf in changes.items()}

    return optax.stateless(update)
