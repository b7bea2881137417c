"""Adapters of dense predictive coding: aggregator, pretraining with and without memory, classifier.

Steps in training are taken in f64, see ``backbones.small``.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvid.core import trees
from jaxvid.interop.method_families import METHOD_FAMILIES, gru_rules
from jaxvid.interop.rules import Rule, export_state, import_state, split_statistics
from jaxvid.losses import predictive
from jaxvid.methods.dpc import DPC, MemDPC
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.predictive import PredictiveClassifier
from jaxvid.models.recurrent import ConvGRU
from tests.golden_adapters.backbones import MEAN, STD
from tests.golden_fixture import Fixture

RULES, ONE_WAY = METHOD_FAMILIES["memdpc"], METHOD_FAMILIES["dpc"]


def last(array) -> np.ndarray:
    """(..., C, H, W) to (..., H, W, C)."""
    return np.moveaxis(array, -3, -1)


def first(array) -> np.ndarray:
    """Inverse of :func:`last`."""
    return np.moveaxis(np.asarray(array), -1, -3)


def conv_gru(fixture: Fixture) -> None:
    c, arrays, rules = fixture.config, fixture.group("in"), gru_rules("", "")
    flat, unused = import_state(fixture.group("param"), rules)
    assert not unused
    params = trees.unflatten(flat)
    x, start, probe = (jnp.asarray(last(arrays[name])) for name in ("x", "h0", "probe"))
    masks = last(arrays["dropout_mask"])  # (layer, step) on one axis
    masks = jnp.asarray(masks.reshape(c["layers"], c["steps"], *masks.shape[1:]).swapaxes(0, 1))
    gru = ConvGRU(c["hidden"], c["layers"], c["kernel"])

    def run(params, x, start=None, masks=None):
        return gru.apply({"params": params}, x, start, masks)

    def loss(params, x):
        return (run(params, x, start, masks)[0] * probe).sum()

    for name, args in (("eval", (start,)), ("train", (start, masks))):
        outputs, state = jax.jit(run)(params, x, *args)
        fixture.check(f"out/{name}_output", first(outputs))
        fixture.check(f"out/{name}_last", first(state).swapaxes(0, 1))
    fixture.check("out/eval_output_h0none", first(run(params, x)[0]))
    grads, x_grad = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    named = export_state(trees.flatten(grads), rules) | {"in/x": first(x_grad)}
    for name in fixture.group("grad"):
        fixture.check(f"grad/{name}", named[name])


class Pretraining:
    """Networks of a fixture; results of forward passes are (maps, directions, loss, figures)."""

    def __init__(self, fixture: Fixture, method: DPC, rules: list[Rule]):
        self.fixture, self.method, self.rules = fixture, method, rules
        self.video = clip(fixture)
        self.params, self.stats = network(fixture, rules)

    def look(self, net, train, masks):
        maps = net.maps(self.video, train)
        return maps, net.directions(maps, masks)

    def forward(self, params, train=False, masks=(None, None), dtype="float32"):
        net = self.method.net().clone(dtype=dtype)
        (maps, directions), new = net.apply(
            {"params": params, "batch_stats": self.stats},
            *(train, masks),
            method=lambda net, *args: self.look(net, *args),
            mutable=["batch_stats"],
        )
        loss, _ = self.method.contrast(directions)
        return loss, (maps, directions, new.get("batch_stats", {}))

    def evaluate(self):
        return jax.jit(self.forward)(self.params)

    def train(self, masks):
        """Loss, results and gradients in f64."""
        step = lambda p: self.forward(p, True, masks, "float64")  # noqa: E731
        with jax.enable_x64(True):
            out, grads = jax.jit(jax.value_and_grad(step, has_aux=True))(self.params)
        check_gradients(self.fixture, grads, self.rules)
        return out


def clip(fixture: Fixture):
    """Blocks (B, N, C, L, H, W) as one normalised clip (B, N L, H, W, C)."""
    blocks = np.moveaxis(fixture.arrays["in/block"], 2, -1) / 255
    video = (blocks - np.array(MEAN)) / np.array(STD)
    return video.reshape(len(video), -1, *video.shape[3:]).astype(np.float32)


def network(fixture: Fixture, rules: list[Rule]) -> tuple:
    flat, unused = import_state(fixture.group("param") | fixture.group("buffer"), rules)
    assert all(name.endswith("num_batches_tracked") for name in unused), unused
    return tuple(map(trees.unflatten, split_statistics(flat, rules)))


def check_gradients(fixture: Fixture, grads, rules: list[Rule]) -> None:
    known = [rule for rule in rules if rule.torch in fixture.group("param")]
    named = export_state(trees.flatten(grads), known)
    for name in fixture.group("grad"):
        fixture.check(f"grad/{name}", named[name])


def state_masks(fixture: Fixture, name: str, count: int):
    """(count, 1, B, h, w, D)."""
    return last(fixture.arrays[f"in/{name}"])[:count, None]


def method_fields(c: dict, track: bool) -> dict:
    widths = (*c["widths"], c["widths"][-1])
    return {
        "encoder": backbone_config("r2d3d_18", widths=widths, bn_track=track),
        "blocks": c["num_seq"],
        "block_frames": c["seq_len"],
        "predict": c["pred_step"],
        "contrast_group_size": None,
    }


def places(d) -> tuple[int, int, int]:
    """Clips, steps and places of the predictions."""
    b, q, h, w, _ = d.predicted.shape
    return b, q, h * w


def dpc_rnn(fixture: Fixture) -> None:
    c = fixture.config
    run = Pretraining(fixture, DPC(**method_fields(c, track=False)), ONE_WAY)
    loss, (_, (d,), _) = run.evaluate()
    shape = places(d) * 2
    scores = predictive.dense_scores(d.predicted, d.target)
    fixture.check("loss/eval_nce", loss)
    fixture.check("out/eval_score", scores.reshape(shape))
    fixture.check("out/context", first(d.context))
    fixture.check("out/eval_pred", first(d.predicted))
    kinds = predictive.pair_kinds(*places(d))
    fixture.check("out/mask", kinds.reshape(shape))
    fixture.check("out/target", (kinds == predictive.POSITIVE).argmax(1))
    masks = state_masks(fixture, "dropout_mask", c["num_seq"] - 1)
    loss, (_, (d,), _) = run.train((masks,))
    fixture.check("loss/train_nce", loss)
    with jax.enable_x64(True):
        scores = predictive.dense_scores(d.predicted, d.target)
        top = [predictive.dense_hits(scores, k).mean() / 100 for k in (1, 3, 5)]
    fixture.check("out/train_score", scores.reshape(shape))
    fixture.check("out/topk", np.array(top))


def memdpc_bd(fixture: Fixture) -> None:
    c = fixture.config
    fields = method_fields(c, track=True)
    run = Pretraining(fixture, MemDPC(slots=c["mem_size"], bd_loss="sum", **fields), RULES)
    loss, (_, directions, _) = run.evaluate()
    fixture.check("loss/eval_total", loss)
    names, accuracy = ("forward", "backward"), []
    fixture.check("out/eval_context", first(directions[0].context)[:, None])
    for name, d in zip(names, directions):
        scores = predictive.dense_scores(d.predicted, d.target)
        fixture.check(f"loss/eval_{name}", predictive.dense_nce_loss(scores).mean())
        b, q, s = places(d)
        f = name[0]
        fixture.check(f"out/eval_slot_logits_{f}", first(d.slots).swapaxes(0, 1))
        fixture.check(f"out/eval_pred_{f}", first(d.predicted).swapaxes(1, 2))
        target = np.moveaxis(np.asarray(d.target), -1, 0).reshape(-1, b, q, s)
        fixture.check(f"out/eval_target_{f}", target)
        fixture.check(f"out/eval_score_{f}", scores[0])
        accuracy.append([predictive.dense_hits(scores, k).mean() / 100 for k in (1, 5)])
    fixture.check("out/eval_acc", np.array(accuracy))
    masks = [state_masks(fixture, f"dropout_mask_{f}", c["num_seq"] - 1) for f in "fb"]
    loss, (_, directions, stats) = run.train(tuple(masks))
    fixture.check("loss/train_total", loss)
    fixture.check("out/train_context", first(directions[0].context)[:, None])
    for name, d in zip(names, directions):
        with jax.enable_x64(True):
            scores = predictive.dense_scores(d.predicted, d.target)
            fixture.check(f"loss/train_{name}", predictive.dense_nce_loss(scores).mean())
    named, before = export_state(trees.flatten(stats), RULES), fixture.group("buffer")
    for name in fixture.group("after"):
        # PyTorch counts its updates; nothing here does.
        counter = name.endswith("num_batches_tracked")
        fixture.check(f"after/{name}", before[name] + 1 if counter else named[name])


def classifier(fixture: Fixture, rules: list[Rule], bidirectional: bool) -> None:
    c, video = fixture.config, clip(fixture)
    params, stats = network(fixture, rules)
    encoder = method_fields(c, track=True)["encoder"]

    def forward(params, dtype="float32"):
        net = PredictiveClassifier(
            encoder, c["seq_len"], c["num_class"], bidirectional, dtype=dtype
        )
        apply = functools.partial(net.apply, {"params": params, "batch_stats": stats})
        logits = apply(video)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, fixture.arrays["in/label"])
        features = apply(apply(video, method="maps"), method="features")
        return loss.mean(), (logits, features)

    loss, (logits, features) = jax.jit(forward)(params)
    fixture.check("loss/eval_ce", loss)
    fixture.check("out/logits", logits[:, None])
    fixture.check("out/context", features[:, None])
    with jax.enable_x64(True):
        grads, _ = jax.jit(jax.grad(lambda p: forward(p, "float64"), has_aux=True))(params)
    check_gradients(fixture, grads, rules)


ADAPTERS = {
    "conv_gru": conv_gru,
    "dpc_rnn": dpc_rnn,
    "memdpc_bd": memdpc_bd,
    "dpc_lc": functools.partial(classifier, rules=ONE_WAY, bidirectional=False),
    "memdpc_lc": functools.partial(classifier, rules=RULES, bidirectional=True),
}
