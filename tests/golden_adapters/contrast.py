"""Adapters of momentum contrast: CoCLR's three losses and networks, tubelet contrast's step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvid.augment.jitter import ClipAugment
from jaxvid.core import trees
from jaxvid.core.types import Context
from jaxvid.interop.method_families import coclr_rules, tubelet_rules
from jaxvid.interop.rules import export_state, import_state, split_statistics
from jaxvid.losses import contrastive
from jaxvid.methods.coclr import CoCLR, without_self
from jaxvid.methods.moco import MoCo, UberNCE, self_and
from tests.golden_adapters.backbones import clip_order, tubelet
from tests.golden_fixture import Fixture

PLAIN = ClipAugment(flip=0.0, jitter=0.0, grey=0.0, blur=0.0)


class Step:
    """Two steps of a method with plain SGD, compared with what a fixture stored.

    Steps are taken in f64, see ``backbones.small``.

    Attributes:
      rules: by network ("q", "k", "sampler"), names in the fixture.
    """

    def __init__(self, fixture: Fixture, method: MoCo, rules: dict, tx):
        self.fixture, self.method, self.rules, self.tx = fixture, method, rules, tx
        self.params, stats = self.network("q")
        self.extra = {"batch_stats": stats, "queue": self.queue()}
        for name in ("k", "sampler"):
            if name in rules:
                params, stats = self.network(name)
                path = {"k": "key"}.get(name, name)
                self.extra[path] = {"params": params, "batch_stats": stats}
        self.opt = tx.init(self.params)
        self.look = jax.jit(self.compare)
        self.differentiate = jax.jit(jax.value_and_grad(self.loss, has_aux=True))

    def network(self, name: str) -> tuple[dict, dict]:
        fixture, rules = self.fixture, self.rules[name]
        state = fixture.group("param") | fixture.group("buffer")
        # 1x1x1 convolutions of the head are linear layers.
        state = {k: v[..., 0, 0, 0] if v.shape[2:] == (1, 1, 1) and _is_head(k) else v
                 for k, v in state.items()}  # fmt: skip
        flat, _ = import_state(state, rules)
        return tuple(map(trees.unflatten, split_statistics(flat, rules)))

    def queue(self) -> dict:
        stored = self.fixture.group("buffer")
        names = {"queue": "key", "queue_second": "other", "queue_vname": "group",
                 "queue_label": "label"}  # fmt: skip
        queue = {"ptr": jnp.asarray(stored["queue_ptr"][0])}
        for theirs, ours in names.items():
            if theirs in stored:
                queue[ours] = jnp.asarray(stored[theirs].T)
        return queue

    def compare(self, params, extra, batch, key):
        video = batch["video"]
        return self.method.contrast(params, extra, video[:, 0], video[:, 1], context(key))

    def loss(self, params, extra, batch, key):
        method = dataclasses.replace(self.method, dtype="float64")
        out = method.loss(params, extra, batch, context(key), None)
        return out.loss, out

    def batch(self, step: int) -> dict:
        """Normalised clips (B, 2, T, H, W, C) and what the losses need besides."""
        arrays = self.fixture.group("in")

        def clips(*names):
            return jnp.stack([_clips(arrays[f"step{step}_{name}"]) for name in names], 1)

        if f"step{step}_clip_q" in arrays:
            raw = {"video": clips("clip_q", "clip_k")}
        elif f"step{step}_block" in arrays:
            raw = {"video": _clips(arrays[f"step{step}_block"])}
        else:
            pair = clips("block1", "block2")  # (B, clip, view, T, H, W, C)
            mine, other = (1, 0) if self.fixture.config["reverse"] else (0, 1)
            raw = {"video": pair[:, :, mine], "other": pair[:, :, other]}
        rows = len(raw["video"])
        keys = jax.random.split(jax.random.key(step), rows)
        batch = self.method.augment({**raw, "rng": keys}, context(keys[0]))
        facts = {"label": f"step{step}_label", "group": f"step{step}_source"}
        absent = np.full(rows, -1, np.int32)
        return batch | {k: jnp.asarray(arrays.get(v, absent)) for k, v in facts.items()}

    def gradients(self, step: int, key):
        """(loss, output of the loss), gradients in f64."""
        with jax.enable_x64(True):
            (loss, out), grads = self.differentiate(self.params, self.extra, self.batch(step), key)
            return (loss, out), jax.tree.map(np.asarray, grads)

    def run(self, step: int, train: bool = True, key=None):
        """One step; checks vectors, logits and state, returns comparison, loss, gradients."""
        fixture, batch = self.fixture, self.batch(step)
        key = jax.random.key(0) if key is None else key
        c = self.look(self.params, self.extra, batch, key)
        for name, value in (("q", c.query), ("k", c.key), ("logits", c.logits)):
            fixture.check(f"out/step{step}_{name}", value)
        (loss, out), grads = self.gradients(step, key)
        if train:
            small = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), grads)
            change, self.opt = self.tx.update(small, self.opt, self.params)
            self.params = optax.apply_updates(self.params, change)
        updates, carry = jax.tree.map(in_32_bits, (out.updates, out.carry))
        self.params, self.extra = self.method.after_update(
            self.params, self.extra | updates, carry, context(key)
        )
        self.check_state(step)
        return c, loss, grads

    def named(self) -> dict:
        """State by the fixture's names."""
        trained = {"q": (self.params, self.extra["batch_stats"])}
        for name, path in (("k", "key"), ("sampler", "sampler")):
            if path in self.extra:
                trained[name] = (self.extra[path]["params"], self.extra[path]["batch_stats"])
        out = {}
        for name, parts in trained.items():
            for part in parts:
                out |= export_state(trees.flatten(part), self.rules[name])
        queue = self.extra["queue"]
        out |= {"queue": queue["key"].T, "queue_ptr": queue["ptr"][None]}
        names = {"queue_second": "other", "queue_vname": "group", "queue_label": "label"}
        return out | {theirs: queue[ours].T for theirs, ours in names.items() if ours in queue}

    def check_state(self, step: int) -> None:
        named = self.named()
        for name, ref in self.fixture.group(f"after/step{step}").items():
            if name.endswith("num_batches_tracked"):
                named[name] = ref  # nothing here counts
            value = np.asarray(named[name]).reshape(ref.shape)
            self.fixture.check(f"after/step{step}/{name}", value)

    def check_gradients(self, prefix: str, grads) -> None:
        named = export_state(trees.flatten(grads), self.rules["q"])
        for name, ref in self.fixture.group(prefix).items():
            self.fixture.check(f"{prefix}/{name}", np.asarray(named[name]).reshape(ref.shape))


def context(key) -> Context:
    return Context(1, 2, 0.0, True, key)


def in_32_bits(x):
    x = np.asarray(x)
    return jnp.asarray(x, {"f": jnp.float32, "i": jnp.int32}.get(x.dtype.kind, x.dtype))


def coin(masked: bool):
    """A key with which a self-mask of chance 1/2 acts, or doesn't."""
    keys = map(jax.random.key, range(100))
    flip = lambda key: bool(jax.random.bernoulli(jax.random.fold_in(key, 2)))  # noqa: E731
    return next(key for key in keys if flip(key) == masked)


def _is_head(name: str) -> bool:
    return name.split(".")[1] in ("2", "4") and not name.startswith("backbone")


def _clips(array: np.ndarray) -> jnp.ndarray:
    return jnp.asarray(np.moveaxis(array, -4, -1))


def _method(kind: type[MoCo], c: dict, encoder, **fields) -> MoCo:
    return kind(
        encoder=encoder, dim=c["dim"], queue=c["K"], momentum=c["m"], temperature=c["T"],
        clip_augment=PLAIN, **fields,
    )  # fmt: skip


def _network(c: dict):
    blocks = {"layers": (1, 1, 1, 1)}
    return clip_order({"arch": c["network"], **blocks, **c})[0]


def coclr_infonce(fixture: Fixture, kind: type[MoCo] = MoCo) -> None:
    c = fixture.config
    rules = {"q": coclr_rules("vcop"), "k": coclr_rules("vcop", "encoder_k")}
    step = Step(fixture, _method(kind, c, _network(c)), rules, optax.sgd(c["sgd_lr"]))
    for number in (1, 2):
        labels = step.extra["queue"].get("label")
        _, loss, grads = step.run(number)
        fixture.check(f"loss/step{number}", loss)
        if labels is not None:
            own = fixture.arrays[f"in/step{number}_label"]
            fixture.check(f"out/step{number}_mask", self_and(own[:, None] == labels))
        if number == 1:
            step.check_gradients("grad", grads)


def coclr_coclr(fixture: Fixture) -> None:
    c = fixture.config
    rules = {"q": coclr_rules("vcop"), "k": coclr_rules("vcop", "encoder_k"),
             "sampler": coclr_rules("vcop", "sampler")}  # fmt: skip
    method = _method(CoCLR, c, _network(c), topk=c["topk"], self_mask=0.5)
    step = Step(fixture, method, rules, optax.sgd(c["sgd_lr"]))
    before = trees.flatten(step.extra["sampler"])
    for number in (1, 2):
        batch, queue = step.batch(number), step.extra["queue"]
        other = method.sample(step.extra, batch["other"][:, 1])
        fixture.check(f"out/step{number}_kf", other)
        _, positive = method.positives(other, batch["group"], queue)
        fixture.check(f"out/step{number}_mask", positive)
        full = bool((queue["group"] >= 0).all())
        fixture.check(f"out/step{number}_full_before_enqueue", full)
        (loss, _), grads = step.gradients(number, coin(masked=False))
        fixture.check(f"loss/step{number}", loss)
        if number == 1:
            step.check_gradients("grad", grads)
        look, loss, grads = step.run(number, full, coin(masked=True))
        if full:
            step.check_gradients(f"out/grad_selfmasked_step{number}", grads)
        fixture.check(f"loss/step{number}_selfmasked", loss)
        top = [contrastive.hits(look.logits, positive, k).mean() / 100 for k in (1, 5)]
        fixture.check(f"out/step{number}_mask_top1_top5", np.array(top))
    for path, value in trees.flatten(step.extra["sampler"]).items():
        np.testing.assert_array_equal(value, before[path])


def coclr_losses(fixture: Fixture) -> None:
    logits, mask = (jnp.asarray(fixture.arrays[f"in/{n}"]) for n in ("logits", "mask"))
    losses = {
        "mil": lambda x: contrastive.mil_nce_loss(x, mask),
        "mil_selfmasked": lambda x: contrastive.mil_nce_loss(x, without_self(mask)),
        "uber": lambda x: contrastive.multi_positive_loss(x, mask),
        "infonce": contrastive.info_nce_loss,
    }
    for name, loss in losses.items():
        value, grad = jax.value_and_grad(lambda x, loss=loss: loss(x).mean())(logits)
        fixture.check(f"loss/{name}", value)
        fixture.check("grad/in/logits" if name == "mil" else f"out/grad_{name}", grad)
    top = [contrastive.hits(logits, mask, k).mean() / 100 for k in (1, 5)]
    fixture.check("out/mask_top1_top5", np.array(top))


def tubelet_moco(fixture: Fixture) -> None:
    c = fixture.config
    encoder, _ = tubelet(c)
    tx = optax.chain(
        optax.clip_by_global_norm(c["clip_norm"]),
        optax.add_decayed_weights(c["weight_decay"]),
        optax.sgd(c["lr"], momentum=0.9),
    )
    net = "tubelet_r2plus1d"
    rules = {"q": tubelet_rules(net), "k": tubelet_rules(net, "key_encoder.", "key_fc.")}
    step = Step(fixture, _method(MoCo, c, encoder), rules, tx)
    for number in (1, 2):
        _, loss, grads = step.run(number)
        fixture.check(f"loss/step{number}", loss)
        fixture.check(f"out/step{number}_grad_norm", optax.tree.norm(grads))
        if number == 1:
            step.check_gradients("grad", grads)


ADAPTERS = {
    "coclr_infonce": coclr_infonce,
    "coclr_ubernce": functools.partial(coclr_infonce, kind=UberNCE),
    "coclr_coclr": coclr_coclr,
    "coclr_losses": coclr_losses,
    "tubelet_moco": tubelet_moco,
}
