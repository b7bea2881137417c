"""Adapters of SIGMA: Sinkhorn-Knopp on given scores, one whole training step of both arms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxvid.core import trees
from jaxvid.core.optim import OptimConfig, make_optimizer
from jaxvid.core.types import Context, RunInfo
from jaxvid.interop.match import to_torch_state
from jaxvid.losses import assignment
from jaxvid.masking.patterns import mask_to_indices
from jaxvid.methods.sigma import SigmaMLP
from jaxvid.methods.sigma_dino import SigmaDINO
from jaxvid.models.image_vit import image_vit_config
from tests.golden_adapters.masked import decoder_fields, encoder_config, load_params, to_clip
from tests.golden_fixture import Fixture

FAMILY = "sigma_pretrain"


def sinkhorn(fixture: Fixture) -> None:
    # Scores are their own tokens where the prototypes are the axes.
    scores = jnp.asarray(fixture.arrays["in/scores"])[None]
    axes = jnp.eye(scores.shape[-1])
    for name, (eps, iters) in fixture.config["cases"].items():
        for chunk in (0, 8):
            v = jax.jit(lambda s, c=chunk: assignment.balance(s, axes, eps, iters, c))(scores)  # noqa: B023
            fixture.check(f"out/q_{name}", assignment.assignment(scores, v, eps)[0])
            hard = assignment.assign(scores, axes, v, eps, chunk).hard
            fixture.check(f"out/argmax_{name}", hard[0])


def make_method(c: dict, **fields):
    shared = {
        "encoder": encoder_config(c),
        "rho": c["mask_ratio"],
        "prototypes": c["num_prototypes"],
        "eps": c["sinkhorn_eps"],
        "iters": c["sinkhorn_iterations"],
        "temperature": c["temperature"],
        **decoder_fields(c | {"decoder_num_heads": c["decoder_num_heads"]}),
    }
    if "head_widths" in c:
        return SigmaMLP(**shared, dim=c["feature_dim"], head_widths=tuple(c["head_widths"]))
    side = c["patch_size"]
    teacher = image_vit_config(
        "tiny", "dino", width=c["feature_dim"], heads=2, depth=1, patch=(1, side, side)
    )
    return SigmaDINO(**shared, teacher=teacher, teacher_size=4 * side, teacher_weights="random")


def pretrain(fixture: Fixture) -> None:
    c = fixture.config
    method, video = make_method(c), to_clip(fixture.arrays["in/video"])
    hidden = fixture.arrays["in/mask"]
    mask = mask_to_indices(jnp.asarray(hidden), int((~hidden[0]).sum()))
    fresh = jax.eval_shape(method.init, jax.random.key(0), {"video": video})[0]
    params = load_params(fixture, FAMILY, fresh)
    params["prototypes"] = assignment.direction(params["prototypes"])
    fixture.check("after/prototypes_normalised", params["prototypes"])

    def project(params):
        if isinstance(method, SigmaMLP):
            return method.labels(video, mask.masked), method.project(params, {}, video, mask.masked)
        given = jnp.asarray(fixture.arrays["in/teacher_features"])
        tokens = method.standardise(given.reshape(len(video), -1, given.shape[-1]))
        x_phi = jnp.take_along_axis(tokens, mask.masked[..., None], axis=1)
        return x_phi, x_phi

    def loss(params):
        labels, x_phi = project(params)
        seen = method.tokenise(params, video, mask.visible)
        x_psi = method.predict_masked(params, seen, mask, method.grid(video))
        loss_phi, loss_psi, _ = method.compare(params["prototypes"], x_phi, x_psi)
        return loss_phi + loss_psi, (labels, x_phi, x_psi, loss_phi, loss_psi)

    (total, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    names = ("out/labels", "out/x_phi", "out/x_psi", "loss/phi", "loss/psi")
    for name, value in zip(names, aux):
        fixture.check(name, value)
    fixture.check("loss/total", total)
    _, x_phi, x_psi, _, _ = aux
    for side, x in (("phi", x_phi), ("psi", x_psi)):
        tokens, prototypes = assignment.direction(x), params["prototypes"]
        scores = tokens @ prototypes.T
        fixture.check(f"out/scores_{side}", scores)
        v = assignment.balance(tokens, prototypes, method.eps, method.iters)
        fixture.check(f"out/q_{side}", assignment.assignment(scores, v, method.eps))
        hard = assignment.assign(tokens, prototypes, v, method.eps).hard
        fixture.check(f"out/target_{side}", hard)
    named = to_torch_state(trees.flatten(grads), FAMILY)
    for name in fixture.group("grad"):
        fixture.check(f"grad/{name}", named[name])

    config = OptimConfig(
        lr=c["lr"], betas=tuple(c["adam_betas"]), eps=c["adam_eps"], schedule="constant",
        weight_decay=c["weight_decay"],
    )  # fmt: skip
    flat, slopes = trees.flatten(params), trees.flatten(grads)
    tx = make_optimizer(config, flat, RunInfo(1, 1, len(video)))
    change, _ = tx.update(slopes, tx.init(flat), flat, step=0)
    moved = optax.apply_updates(flat, change)
    named = to_torch_state(moved, FAMILY)
    for name in set(fixture.group("after")) - {"prototypes_normalised"}:
        fixture.check(f"after/{name}", named[name])
    # The engine then puts the prototypes back to unit length: what the next forward pass starts by.
    ctx = Context(0, 1, 0.0, True, jax.random.key(0))
    after, _ = method.after_update(trees.unflatten(moved), {}, None, ctx)
    rows = named["prototypes"]
    np.testing.assert_allclose(
        after["prototypes"], rows / np.linalg.norm(rows, axis=1, keepdims=True), atol=1e-6
    )


ADAPTERS = {
    "sigma_sinkhorn": sinkhorn,
    "sigma_pretrain_mlp": pretrain,
    "sigma_pretrain_dino": pretrain,
}
