"""Adapters of the masked autoencoders: VideoMAE (both stages), MAE-ST, mask generators."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.core import trees
from jaxvid.interop.match import match, to_torch_state
from jaxvid.losses.reconstruction import token_loss
from jaxvid.masking.patterns import indices_to_mask, mask_to_indices, random_mask, tube_mask
from jaxvid.methods.maest import MAEST
from jaxvid.methods.masked import VideoMAE
from jaxvid.models.encoders import Classifier
from jaxvid.models.patches import patchify
from jaxvid.models.vit import VitConfig
from tests.golden_fixture import Fixture


def load_params(fixture: Fixture, family: str, fresh) -> dict:
    """Parameters of a fixture in the shapes of ``fresh``, through the importer's key map."""
    flat, _ = match(fixture.group("param"), family, trees.flatten(fresh))
    return trees.unflatten(flat)


def check_gradients(fixture: Fixture, family: str, grads, video_grad) -> None:
    """Every ``grad/`` entry of a fixture."""
    named = to_torch_state(trees.flatten(grads), family)
    for name in fixture.group("grad"):
        value = to_torch_video(video_grad) if name == "in/video" else named[name]
        fixture.check(f"grad/{name}", value)


def to_clip(video) -> jax.Array:
    """(B, C, T, H, W) to (B, T, H, W, C)."""
    return jnp.moveaxis(jnp.asarray(video), 1, -1)


def to_torch_video(video) -> np.ndarray:
    """(B, T, H, W, C) to (B, C, T, H, W)."""
    return np.moveaxis(np.asarray(video), -1, 1)


def encoder_config(c: dict, **overrides) -> VitConfig:
    """Encoder sizes of a fixture; names differ between pre-training and fine-tuning."""
    pick = lambda *names: next(c[n] for n in names if n in c)  # noqa: E731
    side = c["patch_size"]
    fields = {
        "width": pick("encoder_embed_dim", "embed_dim"),
        "depth": pick("encoder_depth", "depth"),
        "heads": pick("encoder_num_heads", "num_heads"),
        "mlp_ratio": c["mlp_ratio"],
        "patch": (pick("tubelet_size", "t_patch_size"), side, side),
        "norm_eps": c["layer_norm_eps"],
    }
    return VitConfig(**(fields | overrides))


def decoder_fields(c: dict) -> dict:
    """Decoder sizes of a fixture as method fields."""
    return {
        "decoder_width": c["decoder_embed_dim"],
        "decoder_depth": c["decoder_depth"],
        "decoder_heads": c["decoder_num_heads"],
    }


def fresh_params(method, video):
    """Abstract parameters of a method for a clip."""
    return jax.eval_shape(method.init, jax.random.key(0), {"video": video})[0]


def videomae_pretrain(fixture: Fixture) -> None:
    c, family = fixture.config, "videomae_pretrain"
    video = to_clip(fixture.arrays["in/video"])
    masked = fixture.arrays["in/mask"]
    mask = mask_to_indices(jnp.asarray(masked), int((~masked[0]).sum()))
    method = VideoMAE(encoder=encoder_config(c), rho=c["mask_ratio"], **decoder_fields(c))
    params = load_params(fixture, family, fresh_params(method, video))
    grid, encoder = method.grid(video), {"params": params["encoder"]}

    net = method.encoder_net()
    fixture.check("out/patch_embed", net.apply(encoder, video, method="embed"))
    seen = method.tokenise(params, video, mask.visible)
    encoded = net.apply(encoder, seen, method="encode")
    fixture.check("out/encoder", encoded)
    decoder = method.decoder_net(params["decoder"]["head"]["bias"].size)
    fixture.check(
        "out/decoder_input",
        decoder.apply({"params": params["decoder"]}, encoded, *mask, grid, method="assemble"),
    )
    predicted = method.predict_masked(params, seen, mask, grid)
    fixture.check("out/pred", predicted)
    pixels = patchify(video, method.encoder.patch)
    target = jnp.take_along_axis(method.make_target(pixels), mask.masked[..., None], axis=1)
    fixture.check("out/target", target)
    fixture.check("out/per_token_loss", method.per_token_loss(video, predicted, mask.masked))
    fixture.check("out/per_token_loss", token_loss(predicted, target))

    def loss(params, video, kind="norm"):
        method = VideoMAE(
            encoder=encoder_config(c), rho=c["mask_ratio"], target=kind, **decoder_fields(c)
        )
        tokens = method.tokenise(params, video)
        predicted = method.mae_forward(params, tokens, mask, grid)
        return method.per_token_loss(video, predicted, mask.masked).mean()

    fixture.check("loss/recon_pixel", loss(params, video, "pixel"))
    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, video)
    fixture.check("loss/recon_norm", value)
    # The same number by the road that training takes: only visible patches are embedded.
    fixture.check(
        "loss/recon_norm", method.reconstruct(params, {}, {"video": video}, mask.visible).mean()
    )
    check_gradients(fixture, family, *grads)


def videomae_finetune(fixture: Fixture) -> None:
    c, family = fixture.config, "videomae_finetune"
    video = to_clip(fixture.arrays["in/video"])
    learned = c["use_learnable_pos_emb"]
    config = encoder_config(c, pos="learned" if learned else "sincos1d")
    net = Classifier(config, c["num_classes"])
    fresh = jax.eval_shape(net.init, jax.random.key(0), video)["params"]
    params = load_params(fixture, family, fresh)

    def run(params, video):
        if learned:
            # The reference detaches its learned table; here it would get a gradient.
            table = jax.lax.stop_gradient(params["encoder"]["pos_embed"])
            params = params | {"encoder": params["encoder"] | {"pos_embed": table}}
        tokens = net.apply({"params": params}, video, method="tokens")
        features = net.apply({"params": params}, tokens, method="features")
        logits = net.apply({"params": params}, video)
        log_p = jax.nn.log_softmax(logits)
        soft = -(fixture.arrays["in/soft_target"] * log_p).sum(-1).mean()
        plain = -jnp.take_along_axis(log_p, fixture.arrays["in/label"][:, None], 1).mean()
        smooth = c["label_smoothing"]
        smoothed = (1 - smooth) * plain - smooth * log_p.mean()
        flat = tokens.reshape(*logits.shape[:1], -1, tokens.shape[-1])
        return soft, (flat, features, logits, plain, smoothed)

    (soft, aux), grads = jax.jit(jax.value_and_grad(run, (0, 1), has_aux=True))(params, video)
    names = ("out/tokens", "out/features", "out/logits", "loss/ce", "loss/label_smoothing_ce")
    for name, value in zip(names, aux):
        fixture.check(name, value)
    fixture.check("loss/soft_ce", soft)
    check_gradients(fixture, family, *grads)


def maest_pretrain(fixture: Fixture) -> None:
    c, family = fixture.config, "maest_pretrain"
    video = to_clip(fixture.arrays["in/video"])
    method = MAEST(
        encoder=encoder_config(c, pos="separable", cls=c["cls_embed"], qkv_bias="full"),
        rho=c["mask_ratio"],
        pred_frames=c["pred_t_dim"],
        target="norm" if c["norm_pix_loss"] else "pixel",
        **decoder_fields(c),
    )
    params = load_params(fixture, family, fresh_params(method, video))
    grid, encoder = method.grid(video), {"params": params["encoder"]}
    net = method.encoder_net()

    order = jnp.argsort(fixture.arrays["in/noise"], axis=1)
    keep = order[:, : fixture.arrays["out/ids_keep"].shape[1]]
    tokens = order.shape[1]
    fixture.check("out/ids_keep", keep)
    fixture.check("out/ids_restore", jnp.argsort(order, axis=1))
    fixture.check("out/mask", indices_to_mask(keep, tokens))
    every = jnp.tile(jnp.arange(tokens), (len(keep), 1))

    fixture.check("out/patch_embed", net.apply(encoder, video, method="embed"))
    latent = net.apply(encoder, method.tokenise(params, video, keep), method="encode")
    fixture.check("out/latent", latent)
    decoder = method.decoder_net(params["decoder"]["head"]["bias"].size)
    weights = {"params": params["decoder"]}
    assembled = decoder.apply(weights, latent, keep, grid, method="assemble")
    fixture.check("out/decoder_input", assembled)
    predicted = decoder.apply(weights, latent, keep, every, grid)
    fixture.check("out/pred", predicted)
    fixture.check("out/target", method.make_target(patchify(*method.scored_clip(video))))
    fixture.check("out/per_token_loss", method.per_token_loss(video, predicted, every))

    mask = mask_to_indices(indices_to_mask(keep, tokens), keep.shape[1])

    def loss(params, video):
        seen = method.tokenise(params, video, mask.visible)
        predicted = method.predict_masked(params, seen, mask, grid)
        return method.per_token_loss(video, predicted, mask.masked).mean()

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, video)
    fixture.check("loss/recon", value)
    check_gradients(fixture, family, *grads)


def mask_generators(fixture: Fixture) -> None:
    for name, case in fixture.config["cases"].items():
        permutations = jnp.asarray(fixture.arrays[f"in/{name}/perm"])
        hidden = int(case["ratio"] * permutations.shape[1])
        if case["type"] == "tube":
            masks = [tube_mask(p, tuple(case["grid"]), hidden) for p in permutations]
        else:
            masks = [random_mask(p, hidden) for p in permutations]
        fixture.check(f"out/{name}/mask", jnp.stack(masks))


ADAPTERS = {
    "videomae_pretrain": videomae_pretrain,
    "videomae_finetune": videomae_finetune,
    "maest_pretrain": maest_pretrain,
    "mask_generators": mask_generators,
}
