"""Adapters of trajectory attention and of AdaMAE."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core import trees
from jaxvid.interop.match import to_torch_state
from jaxvid.interop.rules import to_jax, to_torch
from jaxvid.losses.policy import bounded
from jaxvid.masking.patterns import mask_to_indices
from jaxvid.masking.sampler import draw_top_k
from jaxvid.methods.adamae import AdaMAE
from jaxvid.models import trajectory
from jaxvid.models.layers import attention
from jaxvid.models.patches import gather_tokens, patchify
from jaxvid.models.policy import PolicyBlock
from tests.golden_adapters.masked import (
    check_gradients,
    decoder_fields,
    encoder_config,
    fresh_params,
    load_params,
    to_clip,
)
from tests.golden_fixture import Fixture


def nested(flat: dict[str, np.ndarray]) -> dict:
    """Torch names of dense layers and LayerNorms to our tree."""
    tree: dict = {}
    for name, value in flat.items():
        *path, leaf = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        kind = "linear" if value.ndim == 2 else "vector"
        leaf = {"weight": "kernel" if value.ndim == 2 else "scale"}.get(leaf, leaf)
        node[leaf] = jnp.asarray(to_jax(value, kind))
    return tree


def pick(tree: dict, name: str) -> np.ndarray:
    """Leaf of our tree by its torch name, in torch layout."""
    *path, leaf = name.split(".")
    for part in path:
        tree = tree[part]
    value = np.asarray(tree[leaf if leaf in tree else "kernel" if "kernel" in tree else "scale"])
    return to_torch(value, "linear" if value.ndim == 2 else "vector")


def class_row(weights, x, heads):
    """Output of the class token (row 0 of x), which attends to everything at once."""
    q, k, v = trajectory.project_qkv(weights, x, heads)
    return trajectory.dense(weights["proj"], attention(q[:, :1], k, v).reshape(x[:, :1].shape))


def attend(weights, x, c, module, first=None):
    """Reference attention on [class token; patches]."""
    patches = module.apply({"params": weights}, x[:, 1:], None, first)
    return jnp.concatenate([class_row(weights, x, c["num_heads"]), patches], axis=1)


def check_probe(fixture: Fixture, run, params) -> None:
    """Output, loss and gradients of ``sum(run(params, x) * probe)``."""
    probe = fixture.arrays["in/probe"]

    def loss(params, x):
        out = run(params, x)
        return (out * probe).sum(), out

    grad = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (value, out), (by_params, by_x) = grad(params, jnp.asarray(fixture.arrays["in/x"]))
    fixture.check("out/x", out)
    fixture.check("loss/probe", value)
    for name in fixture.group("grad"):
        fixture.check(f"grad/{name}", by_x if name == "in/x" else pick(by_params, name))


def trajectory_attention(fixture: Fixture) -> None:
    c, weights = fixture.config, nested(fixture.group("param"))
    heads, frames, count = c["num_heads"], c["num_frames"], c.get("num_landmarks", 0)
    values = not c["use_original_code"]
    x = jnp.asarray(fixture.arrays["in/x"])[:, 1:]
    q, k, v = trajectory.project_qkv(weights, x, heads)
    first = None
    if count:
        first = jnp.asarray(fixture.arrays["in/first_landmark"]).reshape(-1, heads)
        order = trajectory.select_landmarks(q, first, count)
        fixture.check("out/landmark_order", order.reshape(-1, count))
        fixture.check("out/landmark_idx", jnp.sort(order).reshape(-1, count))
        taken = trajectory.take_landmarks(q, order)
        scaled = jnp.swapaxes(taken, 1, 2) * q.shape[-1] ** -0.25
        fixture.check(
            "out/landmarks",
            jnp.take_along_axis(scaled, jnp.argsort(order)[..., None], axis=2).reshape(
                -1, count, q.shape[-1]
            ),
        )
        tokens = trajectory.orthoformer_step(q, k, v, taken, frames)
    else:
        tokens = trajectory.spatial_step(q, k, v, frames, "xla")
        fixture.check("out/trajectory", trajectory.spatial_step(q, k, v, frames))
    fixture.check("out/trajectory", tokens)
    place = jnp.arange(x.shape[1])
    own = tokens[:, place, place // c["seq_len"]]
    _, over_time = trajectory.temporal_step(tokens, own, weights, heads, values)
    fixture.check("out/attn_time", jnp.moveaxis(over_time, 2, 1))
    for impl in ("auto", "xla", "chunked"):
        module = trajectory.TrajectoryAttention(heads, frames, count, impl, project_values=values)
        check_probe(fixture, lambda p, x, m=module: attend(p, x, c, m, first), weights)


def trajectory_block(fixture: Fixture) -> None:
    c, params = fixture.config, nested(fixture.group("param"))
    block = PolicyBlock(
        c["dim"], "ta", c["num_heads"], c["num_frames"],
        mlp_ratio=c["mlp_ratio"], norm_eps=c["layer_norm_eps"], impl="auto",
    )  # fmt: skip

    def run(params, x):
        # The class token's rows of the same block: attention as above, the rest token by token.
        module = block.bind({"params": params})
        row = x[:, :1] + class_row(params["attn"], module.norm1(x), c["num_heads"])
        row = row + module.mlp(module.norm2(row))
        return jnp.concatenate([row, module(x[:, 1:])], axis=1)

    x = block.bind({"params": params}).norm1(jnp.asarray(fixture.arrays["in/x"]))[:, 1:]
    q, k, v = trajectory.project_qkv(params["attn"], x, c["num_heads"])
    fixture.check("out/trajectory", trajectory.spatial_step(q, k, v, c["num_frames"]))
    check_probe(fixture, run, params)


def adamae_pretrain(fixture: Fixture) -> None:
    c, family = fixture.config, "adamae_pretrain"
    video = to_clip(fixture.arrays["in/video"])
    method = AdaMAE(
        encoder=encoder_config(c), rho=c["mask_ratio"], coef=c["sampling_coef"],
        sampler_heads=c["sampler_heads"], **decoder_fields(c),
    )  # fmt: skip
    assert method.sampler_net().norm_eps == c["sampler_layer_norm_eps"]
    params = load_params(fixture, family, fresh_params(method, video))
    grid = method.grid(video)
    mask = mask_to_indices(jnp.asarray(fixture.arrays["in/mask"]), c["num_visible"])

    def policy(params, video):
        tokens = method.embed(params, video)
        sampler = {"params": params["sampler"]}
        return tokens, method.sampler_net().apply(sampler, tokens, grid)

    _, logp = policy(params, video)
    fixture.check("out/p_x", jnp.exp(logp))
    fixture.check("out/log_prob", bounded(logp))
    drawn = draw_top_k(logp, -jnp.log(fixture.arrays["in/exp_noise"]), c["num_visible"])
    np.testing.assert_array_equal(drawn, fixture.arrays["in/vis_idx"])
    np.testing.assert_array_equal(jnp.sort(drawn), mask.visible)

    seen = method.tokenise(params, video, mask.visible)
    encoder = {"params": params["encoder"]}
    fixture.check("out/encoder", method.encoder_net().apply(encoder, seen, method="encode"))
    predicted = method.predict_masked(params, seen, mask, grid)
    fixture.check("out/pred", predicted)
    pixels = gather_tokens(patchify(video, method.encoder.patch), mask.masked)
    fixture.check("out/target", method.make_target(pixels))
    fixture.check("out/per_token_loss", method.per_token_loss(video, predicted, mask.masked))

    def losses(params, video):
        tokens, logp = policy(params, video)
        return method.losses(params, video, tokens, logp, mask)

    def total(params, video):
        reconstruction, sampling = losses(params, video)
        return (reconstruction + method.coef * sampling).mean()

    reconstruction, sampling = losses(params, video)
    fixture.check("out/sampling_per_clip", sampling)
    fixture.check("loss/recon", reconstruction.mean())
    fixture.check("loss/sampling", method.coef * sampling.mean())
    value, grads = jax.jit(jax.value_and_grad(total, (0, 1)))(params, video)
    fixture.check("loss/total", value)
    check_gradients(fixture, family, *grads)
    alone = jax.jit(jax.grad(lambda params: losses(params, video)[1].mean()))(params)
    named = to_torch_state(trees.flatten(alone), family)
    for name in fixture.group("out/grad_sampling"):
        fixture.check(f"out/grad_sampling/{name}", named[name])


ADAPTERS = {
    "adamae_pretrain": adamae_pretrain,
    "trajectory_attention_exact": trajectory_attention,
    "trajectory_attention_orthoformer": trajectory_attention,
    "trajectory_block": trajectory_block,
}
