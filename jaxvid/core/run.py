"""From a config to everything a run needs: method, data, optimisers, compiled steps."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxvid.core import sharding, step, trees
from jaxvid.core.checkpoint import CheckpointConfig, expand_init_from
from jaxvid.core.config import ConfigError, check, from_config
from jaxvid.core.hardware import release_freed_memory
from jaxvid.core.method import Method
from jaxvid.core.optim import OptimConfig, make_optimizer, make_schedule
from jaxvid.core.sharding import MeshConfig
from jaxvid.core.types import Objective, RunInfo, TrainState, View
from jaxvid.data.config import DataConfig
from jaxvid.data.pipeline import (
    SplitInfo,
    describe,
    describe_training,
    resolve_views,
    steps_per_epoch,
)
from jaxvid.data.sampling import TARGETS
from jaxvid.data.text import feature_width
from jaxvid.methods import make_method


@dataclass(frozen=True)
class RunConfig:
    """Top level of a config; the groups ``method``, ``data``, ``optim``, ``evals`` have their own.

    Attributes:
      seed: of initialisation, data order and every draw.
      batch_size: clips per step, over all devices and micro-batches, after ``data.repeat``.
      epochs, steps: length of the run; exactly one is set, the other 0.
      max_seconds: stop (and save) after so many seconds of training; 0 = no limit.
      accumulate: micro-batches per step.
      clip_norm: bound on the gradient norm per optimiser; 0 = off.
      ema: decay of the average of the parameters; 0 = none.
      init_from: checkpoint path, or rows (checkpoint, source regex, target prefix).
      sharding: (regex, spec) rules for parameters and optimiser state, see ``core.sharding``.
      log_every: steps between log lines.
      pictures: evaluation clips to draw at every evaluation: masks and reconstructions, tubelets by
        prototype, or the activations of a convolutional network.
      max_skips: stop after so many skipped (non-finite) updates in a row.
      profile: "first:last" steps to trace for the profiler, or "".
      allow_config_change: resume although the stored config differs.
    """

    method: Mapping[str, Any]
    data: Mapping[str, Any]
    optim: Mapping[str, Any]
    evals: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    batch_size: int = 256
    epochs: float = 0.0
    steps: int = 0
    max_seconds: float = 0.0
    accumulate: int = 1
    clip_norm: float = 0.0
    ema: float = 0.0
    init_from: Any = ""
    mesh: MeshConfig = MeshConfig()
    sharding: tuple = sharding.RULES
    checkpoint: CheckpointConfig = CheckpointConfig()
    log_every: int = 50
    pictures: int = 3
    max_skips: int = 10
    profile: str = ""
    allow_config_change: bool = False

    def __post_init__(self):
        for name in ("batch_size", "accumulate", "log_every", "max_skips"):
            check(getattr(self, name) >= 1, f"config.{name}", getattr(self, name), "at least 1")
        for name in ("seed", "steps", "epochs", "pictures", "clip_norm", "max_seconds"):
            check(getattr(self, name) >= 0, f"config.{name}", getattr(self, name), "0 or more")
        check(0 <= self.ema < 1, "config.ema", self.ema, "in [0, 1)")
        span = re.fullmatch(r"(\d+):(\d+)", self.profile)
        fits = not self.profile or (span and int(span[1]) < int(span[2]))
        check(fits, "config.profile", self.profile, "'first:last', two steps, or empty")


class Run:
    """A validated run; building it touches no video and compiles nothing."""

    def __init__(self, config: ConfigDict, devices=None):
        self.config = from_config(RunConfig, config, "config")
        self.source = config.copy_and_resolve_references()  # the caller's stays as it is
        self._traced: dict = {}
        self.data: DataConfig = from_config(DataConfig, self.config.data, "config.data")
        self.method: Method = make_method(self._with_classes())
        self.mesh: Mesh = sharding.make_mesh(self.config.mesh, devices)
        self.init_from = expand_init_from(self.config.init_from, self.method.inherits)
        c = self.config
        sharding.check_batch(c.batch_size, c.accumulate, self.mesh)
        if c.accumulate > 1 and self.method.coupling == "batch":
            raise ConfigError(
                f"config.accumulate={c.accumulate}: {type(self.method).__name__} couples the "
                "examples of a batch; use more devices, a smaller batch, or remat instead"
            )
        if (c.epochs > 0) == (c.steps > 0):
            raise ConfigError(
                f"config.epochs={c.epochs}, config.steps={c.steps}: set exactly one above 0, the "
                "other to 0, as in --config.steps=100 --config.epochs=0"
            )

    def _with_classes(self) -> dict[str, Any]:
        """``config.method`` with the classes of the data, where the method has a classifier.

        Raises:
          ConfigError: the data has no labels, or more classes than the classifier.
        """
        group = dict(self.config.method)
        if "num_classes" not in group:
            return group
        found = describe_training(self.data)
        self._check_labels(group["name"], found)
        if not group["num_classes"]:
            group["num_classes"] = self.source.method.num_classes = len(found.class_names)
        if group["num_classes"] < len(found.class_names):
            raise ConfigError(
                f"config.method.num_classes={group['num_classes']}, but the data has "
                f"{len(found.class_names)} classes; 0 takes them from the manifest"
            )
        return group

    def _check_labels(self, method: str, found: SplitInfo) -> None:
        """Raise ConfigError unless the training data has labels, the same as the evaluated."""
        data = self.data
        if not found.has_labels:
            hint = "; only where all data sets of a mixture list the same classes their labels hold"
            hint += " (config.data.label_map names one list for all)"
            raise ConfigError(
                f"config.method '{method}' needs labels; split '{data.train_split}' of "
                f"{data.mixture or data.manifest or data.source} has none"
                + (hint if data.mixture else "")
            )
        if data.mixture and data.manifest:
            names = describe(data, data.eval_split).class_names
            if names and names != found.class_names:
                pairs = zip_longest(names, found.class_names)
                label, (one, other) = next((i, p) for i, p in enumerate(pairs) if p[0] != p[1])
                raise ConfigError(
                    f"config.data.manifest={data.manifest}, which is evaluated, has other classes "
                    f"than config.data.mixture={data.mixture}: class {label} is {one!r} here and "
                    f"{other!r} there (config.data.label_map names one list for all)"
                )

    @cached_property
    def training_data(self) -> SplitInfo:
        """What training reads; reads the manifest."""
        found = describe_training(self.data, self.views)
        if self.method.needs_labels:
            self._check_labels(self.config.method["name"], found)
        return found

    @cached_property
    def info(self) -> RunInfo:
        """Length of the run; reads the manifest."""
        c, found = self.config, self.training_data
        per_epoch = steps_per_epoch(self.data, found.num_examples, c.batch_size)
        return RunInfo(per_epoch, c.steps or max(1, round(c.epochs * per_epoch)), c.batch_size)

    @cached_property
    def views(self) -> dict[str, View]:
        """Views of the method with every field set."""
        return resolve_views(self.data, self.method.views())

    @cached_property
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of the global batch as it comes from the loader."""
        b, placed = self.config.batch_size, sharding.batch_sharding(self.mesh)
        batch = {
            name: jax.ShapeDtypeStruct(
                (b, *([v.count] if v.count > 1 else []), v.frames, v.size, v.size, 3),
                np.uint8,
                sharding=placed,
            )
            for name, v in self.views.items()
        }
        shapes = dict.fromkeys(("label", "index", "group"), (b,))
        for name, view in self.views.items():
            if view.ids:
                shapes[f"{name}_ids"] = batch[name].shape[:-3]
            if view.plan in TARGETS:
                shapes[f"{name}_target"] = (*batch[name].shape[:-4], TARGETS[view.plan])
        if any(view.text for view in self.views.values()):
            batch["text"] = jax.ShapeDtypeStruct(
                (b, feature_width(self.data)), np.float32, sharding=placed
            )
        for name, shape in shapes.items():
            batch[name] = jax.ShapeDtypeStruct(shape, np.int32, sharding=placed)
        return batch

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """Objectives of the method; every one has an entry in ``config.optim``."""
        objectives = self.method.objectives(self.info)
        for objective in objectives:
            if objective.optim not in self.config.optim:
                raise ConfigError(
                    f"config.optim has no entry '{objective.optim}', which the objective "
                    f"{objective.fn} needs; entries: {', '.join(self.config.optim)}"
                )
        unused = set(self.config.optim) - {o.optim for o in objectives}
        if unused:
            raise ConfigError(f"config.optim.{sorted(unused)[0]}: no objective uses it")
        return objectives

    @cached_property
    def abstract_params(self):
        """Shapes of ``(params, extra)``."""

        def init():
            batch = {k: jax.numpy.zeros(v.shape, v.dtype) for k, v in self.abstract_batch.items()}
            dummy = step.init_state(self.method, {}, batch, jax.random.key(0), 0.0)
            return dummy.params, dummy.extra

        return jax.eval_shape(init)

    @cached_property
    def optimisers(self) -> dict[str, step.Optimiser]:
        """Optimiser per entry of ``config.optim``."""
        params = self.abstract_params[0]
        regexes = step.check_objectives(self.objectives, params)
        out = {}
        for name, regex in regexes.items():
            config = self.optim_config(name)
            own = trees.select(trees.flatten(params), regex)
            tx = make_optimizer(config, own, self.info)
            out[name] = step.Optimiser(tx, regex, make_schedule(config, self.info))
        return out

    def optim_config(self, name: str) -> OptimConfig:
        """Entry ``name`` of ``config.optim``."""
        return from_config(OptimConfig, self.config.optim[name], f"config.optim.{name}")

    def fresh_state(self) -> TrainState:
        """Initial state, created sharded."""
        # Runs once, so it should compile fast: for convolutional networks five times faster so.
        cpu = self.mesh.devices.flat[0].platform == "cpu"
        options = {"xla_backend_optimization_level": 0} if cpu else None
        # The key is an argument, so that runs of other seeds find the program in the cache.
        make = jax.jit(self._init, out_shardings=self.state_shardings, compiler_options=options)
        state = make(jax.random.key(self.config.seed))
        release_freed_memory()
        return state

    def _init(self, key: jax.Array) -> TrainState:
        batch = {k: jax.numpy.zeros(v.shape, v.dtype) for k, v in self.abstract_batch.items()}
        return step.init_state(self.method, self.optimisers, batch, key, self.config.ema)

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        rules = (*getattr(self.method, "sharding", ()), *self.config.sharding)
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            sharding.shard_tree(shapes, self.mesh, rules),
        )

    @cached_property
    def state_shardings(self) -> TrainState:
        """Where every leaf of the state lives."""
        return jax.tree.map(lambda x: x.sharding, self.abstract_state)

    def variant(self, number: int) -> tuple[tuple[Objective, bool], ...]:
        """Objectives active at step ``number``, and whether they train."""
        return tuple((o, o.trains_at(number)) for o in self.objectives if o.active(number))

    def train_step(self, variant) -> step.StepFn:
        """The pure step of one variant."""
        c = self.config
        parts = None
        if self.mesh.shape["fsdp"] > 1:
            parts = trees.flatten(self.state_shardings.params)
        return step.make_train_step(
            self.method, self.info, self.optimisers, variant,
            mesh=self.mesh, shardings=parts, accumulate=c.accumulate, clip_norm=c.clip_norm,
            ema=c.ema,
        )  # fmt: skip

    def traced_step(self, variant) -> jax.stages.Traced:
        """The step of one variant traced for the mesh (once); the state is donated."""
        if variant not in self._traced:
            step = jax.jit(
                self.train_step(variant),
                donate_argnums=0,
                out_shardings=(self.state_shardings, sharding.replicated(self.mesh)),
            )
            self._traced[variant] = step.trace(self.abstract_state, self.abstract_batch)
        return self._traced[variant]

    def compile_step(self, variant, options=None) -> jax.stages.Compiled:
        """The step of one variant, ready to call with a placed state and batch."""
        step = self.traced_step(variant).lower().compile(options)
        release_freed_memory()
        return step


def changed_fields(old: Mapping, new: Mapping, prefix: str = "config") -> list[str]:
    """Lines "config.x: old -> new" for every field in which two configs differ."""
    lines = []
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += changed_fields(a, b, f"{prefix}.{name}")
        elif a != b:
            lines.append(f"{prefix}.{name}: {a!r} -> {b!r}")
    return lines
