"""Linear and non-linear probe: a classifier on frozen pooled features."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvid.core.config import ConfigError, check
from jaxvid.evals.api import EvalContext, EvalResult, PooledEvaluator
from jaxvid.evals.metrics import (
    accuracy,
    classification_metrics,
    confusion_matrix,
    per_class_accuracy,
    topk_correct,
)


def held_out(
    label: np.ndarray, share: float, seed: int, group: np.ndarray | None = None
) -> np.ndarray:
    """Which training examples to hold out for choosing hyper-parameters.

    Args:
      label: (n,) int.
      share: of the examples (or groups) of every class, in (0, 1). At least one is held out of a
        class with two or more; a class with a single one keeps it.
      seed: of the draw.
      group: (n,) group of each example, such as the source video of a clip; whole groups are held
        out, so near-duplicates never sit on both sides.

    Returns:
      (n,) bool.
    """
    rng = np.random.default_rng(seed)
    group = np.arange(len(label)) if group is None else np.unique(group, return_inverse=True)[1]
    out = np.zeros(group.max() + 1, bool)
    # A group belongs to the class of its first example, so that it is drawn once.
    _, first = np.unique(group, return_index=True)
    for value in np.unique(label):
        members = np.flatnonzero(label[first] == value)
        take = 0 if len(members) < 2 else min(max(1, round(share * len(members))), len(members) - 1)
        out[rng.permutation(members)[:take]] = True
    return out[group]


def make_schedule(n: int, batch: int, epochs: float, min_steps: int, seed: int) -> np.ndarray:
    """Rows of every minibatch, (steps, min(batch, n)) int32: a fresh permutation per epoch.

    Args:
      n: examples.
      batch: minibatch size.
      epochs: passes over the data.
      min_steps: lower bound on the number of steps.
      seed: of the permutations.
    """
    batch = min(batch, n)
    steps = max(min_steps, round(epochs * n / batch))
    rng = np.random.default_rng(seed)
    per_epoch = n // batch
    rows = [
        rng.permutation(n)[: per_epoch * batch].reshape(per_epoch, batch)
        for _ in range(-(-steps // per_epoch))
    ]
    return np.concatenate(rows)[:steps].astype(np.int32)


def cosine_adamw(lr: jax.Array, steps: int, weight_decay: float) -> optax.GradientTransformation:
    """AdamW whose rate falls from ``lr`` (may be traced) to 0 by half a cosine."""

    def rate(count):
        return lr * 0.5 * (1.0 + jnp.cos(jnp.pi * count / steps))

    return optax.adamw(rate, weight_decay=weight_decay)


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
    """(n,) f32, natural logarithm."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), label)


def init_probe(width: int, classes: int, hidden: int, seed: int) -> dict[str, jax.Array]:
    """First parameters: zeros for a linear map; with ``hidden`` > 0 a ReLU layer before it.

    Returns:
      ``kernel`` (width or hidden, classes), ``bias``; ``hidden_kernel`` (width, hidden),
      ``hidden_bias``.
    """
    params = {"kernel": jnp.zeros((hidden or width, classes)), "bias": jnp.zeros(classes)}
    if hidden:
        k_in, k_out = jax.random.split(jax.random.key(seed))
        draw = jax.nn.initializers.he_normal()
        params |= {
            "hidden_kernel": draw(k_in, (width, hidden)),
            "hidden_bias": jnp.zeros(hidden),
            # Behind a ReLU zeros would leave the first layer without gradient.
            "kernel": 0.1 * draw(k_out, (hidden, classes)),
        }
    return params


def probe_logits(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """(n, classes) of features x (n, D)."""
    if "hidden_kernel" in params:
        x = jax.nn.relu(x @ params["hidden_kernel"] + params["hidden_bias"])
    return x @ params["kernel"] + params["bias"]


@partial(jax.jit, static_argnames=("classes", "weight_decay", "hidden", "seed"))
def fit_linear(
    x: jax.Array,
    label: jax.Array,
    rows: jax.Array,
    lrs: jax.Array,
    *,
    classes: int,
    weight_decay: float,
    hidden: int = 0,
    seed: int = 0,
) -> dict[str, jax.Array]:
    """Logistic regression from zero weights for all learning rates at once.

    Args:
      x: (n, D) f32.
      label: (n,) int32.
      rows: (steps, batch) int32 of :func:`make_schedule`.
      lrs: (L,) learning rates.
      classes: number of classes.
      weight_decay: decoupled, times the learning rate.
      hidden: width of a ReLU layer before the linear one, 0 = none.
      seed: of that layer's first weights.

    Returns:
      Parameters of :func:`init_probe` with a leading axis L.
    """
    start = init_probe(x.shape[1], classes, hidden, seed)

    def loss(params, batch):
        return cross_entropy(probe_logits(params, x[batch]), label[batch]).mean()

    def fit(lr):
        optimiser = cosine_adamw(lr, len(rows), weight_decay)

        def step(carry, batch):
            params, state = carry
            updates, state = optimiser.update(jax.grad(loss)(params, batch), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (start, optimiser.init(start)), rows)[0][0]

    return jax.vmap(fit)(lrs)


@jax.jit
def linear_logits(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """(L, n, classes) for stacked parameters of :func:`fit_linear`."""
    return jax.vmap(probe_logits, (0, None))(params, x)


def choose_rate(logits: np.ndarray, label: np.ndarray) -> tuple[int, list[float]]:
    """Learning rate with the best held-out accuracy; among equals the one of the lowest loss.

    Args:
      logits: (L, n, classes) of the held-out examples.
      label: (n,) int.

    Returns:
      Its position, and the accuracy of all L in percent.
    """
    sweep = [accuracy(topk_correct(one, label)) for one in logits]
    losses = np.asarray(
        cross_entropy(jnp.asarray(logits), np.broadcast_to(label, logits.shape[:2])).mean(axis=1)
    )
    # A rate that diverged has no loss to speak of and must not win a tie.
    losses = np.where(np.isfinite(losses), losses, np.inf)
    return int(np.lexsort((losses, -np.array(sweep)))[0]), sweep


@dataclass(frozen=True)
class Linear(PooledEvaluator):
    """Logistic regression on standardised pooled features; learning rate chosen inside train.

    Attributes:
      hidden: width of a ReLU layer before the linear one (non-linear probe), 0 = none.
      lrs: learning rates of AdamW, ascending, all fitted in one vmapped loop.
      weight_decay: decoupled weight decay.
      epochs: passes over the training split.
      min_steps: steps at least, for small sets.
      batch: minibatch size.
      held_out: share of every class of the training split that chooses the learning rate; the
        chosen one is then fitted on the whole split.
    """

    hidden: int = 0
    lrs: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    weight_decay: float = 1e-3
    epochs: float = 50.0
    min_steps: int = 300
    batch: int = 256
    held_out: float = 0.2

    def __post_init__(self):
        if not self.lrs or min(self.lrs) <= 0 or not 0 < self.held_out < 1:
            raise ConfigError(
                f"linear: lrs must be positive and held_out in (0, 1), got {self.lrs} and "
                f"{self.held_out}"
            )
        check(self.hidden >= 0, "linear.hidden", self.hidden, "0 (a linear probe) or a width")

    def run(self, ctx: EvalContext) -> EvalResult:
        train, test, classes = self.labelled(ctx, "linear")
        mean, std = train.pooled.mean(axis=0), train.pooled.std(axis=0) + 1e-6
        x, x_test = (train.pooled - mean) / std, (test.pooled - mean) / std
        group = ctx.groups(ctx.data.train_split, train.index)
        out = held_out(train.label, self.held_out, ctx.seed, group)
        if not out.any():
            raise ConfigError("linear: every class of the training split has a single example")

        def fit(keep: np.ndarray, lrs: Sequence[float]) -> dict[str, jax.Array]:
            rows = make_schedule(int(keep.sum()), self.batch, self.epochs, self.min_steps, ctx.seed)
            return fit_linear(
                jnp.asarray(x[keep]),
                jnp.asarray(train.label[keep]),
                jnp.asarray(rows),
                jnp.asarray(lrs, jnp.float32),
                classes=classes,
                weight_decay=self.weight_decay,
                hidden=self.hidden,
                seed=ctx.seed,
            )

        logits = np.asarray(linear_logits(fit(~out, self.lrs), jnp.asarray(x[out])))
        best, sweep = choose_rate(logits, train.label[out])
        final = fit(np.ones(len(x), bool), self.lrs[best : best + 1])
        scores = np.asarray(linear_logits(final, jnp.asarray(x_test)))[0]
        metrics = {"lr": self.lrs[best], "held_out_top1": sweep[best]}
        return probe_result(scores, test.label, test.index, metrics, self.lrs, sweep)


def probe_result(
    scores: np.ndarray,
    label: np.ndarray,
    index: np.ndarray,
    extra: dict[str, float],
    lrs: Sequence[float],
    sweep: Sequence[float],
) -> EvalResult:
    """Result of a probe from its test logits (n, classes) and its sweep of learning rates."""
    metrics, correct = classification_metrics(scores, label)
    prediction = scores.argmax(axis=1)
    confusion = confusion_matrix(label, prediction, scores.shape[1])
    return EvalResult(
        {**metrics, **extra},
        {"index": index, "label": label, "prediction": prediction, "correct": correct},
        {
            "confusion": confusion,
            "per_class": per_class_accuracy(confusion),
            "sweep": np.array(list(zip(lrs, sweep))),
        },
    )
