"""Adapters of playing speeds and of clip order."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core import trees
from jaxvid.data.speed import pace_ids, signed_ids
from jaxvid.interop.families import family_rules
from jaxvid.interop.rules import dense_rules, export_state, import_state, split_statistics, under
from jaxvid.losses.classification import soft_cross_entropy_loss
from jaxvid.models.backbone_config import backbone_config
from jaxvid.models.encoders import make_encoder, pool, token_map
from jaxvid.models.order import ClipOrderHead, clip_orders, order_class
from tests.golden_adapters.backbones import MEAN, STD
from tests.golden_fixture import Fixture


def speed_frame_indices(fixture: Fixture) -> None:
    a, c = fixture.group("in"), fixture.config
    frames = c["clip_len"]
    rows = zip(a["num_frames"], a["pace_rate"], a["pace_start"])
    # The public pace code counts from 1.
    pace = [pace_ids(int(n), frames, int(rate), int(start) - 1) + 1 for n, rate, start in rows]
    fixture.check("out/pace", np.array(pace))
    rows = zip(a["num_frames"], a["stride_index"], a["speednet_start"])
    signed = [signed_ids(int(n), frames, c["strides"][i], int(start)) for n, i, start in rows]
    fixture.check("out/speednet", np.array(signed))


def vcop_head(fixture: Fixture) -> None:
    c, order = fixture.config, jnp.asarray(fixture.arrays["in/order"])
    classes = order_class(order)
    fixture.check("out/orders", clip_orders(c["tuple_len"]))
    fixture.check("out/class", classes)
    rules = [
        *under(family_rules("c3d"), "base_network.", ""),
        *dense_rules("fc7", "head/pair"),
        *dense_rules("fc8", "head/out"),
    ]
    flat, _ = import_state(fixture.group("param") | fixture.group("buffer"), rules)
    params, stats = map(trees.unflatten, split_statistics(flat, rules))
    config = backbone_config("c3d", widths=tuple(c["widths"]))

    def logits(params, train, dtype="float32"):
        encoder = make_encoder(config, dtype=dtype)
        head = ClipOrderHead(c["pair_width"], len(clip_orders(c["tuple_len"])), dtype)
        video = jnp.moveaxis(jnp.asarray(fixture.arrays["in/clips"]), 2, -1).astype(dtype) / 255
        video = (video - jnp.array(MEAN, dtype)) / jnp.array(STD, dtype)
        own = {"params": params["encoder"], "batch_stats": stats["encoder"]}

        def features(clip):  # every slot passes alone, with batch statistics of its own
            tokens, _ = encoder.apply(
                own, clip, method=lambda net, x: token_map(net, x, train=train),
                mutable=["batch_stats"],
            )  # fmt: skip
            return pool(tokens)

        found = jnp.stack([features(video[:, i]) for i in range(c["tuple_len"])], 1)
        keep = jnp.asarray(fixture.arrays["in/dropout_mask"]) if train else None
        return head.apply({"params": params["head"]}, found.astype(dtype), keep)

    def loss(params):
        target = jax.nn.one_hot(classes, len(clip_orders(c["tuple_len"])))
        return soft_cross_entropy_loss(logits(params, True, "float64"), target).mean()

    run = jax.jit(logits, static_argnums=1)
    fixture.check("out/eval_logits", run(params, False))
    fixture.check("out/train_logits", run(params, True))
    with jax.enable_x64(True):
        value, grads = jax.jit(jax.value_and_grad(loss))(params)
    fixture.check("loss/ce", value)
    named = export_state(trees.flatten(jax.tree.map(np.asarray, grads)), rules)
    for name in fixture.group("grad"):
        fixture.check(f"grad/{name}", named[name])


ADAPTERS = {"speed_frame_indices": speed_frame_indices, "vcop_head": vcop_head}
