"""Key maps: one per family of public PyTorch checkpoints."""

from collections.abc import Iterable

from jaxvid.core.config import choose
from jaxvid.interop.conv_families import CONV_FAMILIES, CONV_MARKS
from jaxvid.interop.method_families import BESIDE, METHOD_FAMILIES, METHOD_MARKS
from jaxvid.interop.rules import InteropError, Rule, dense_rules, under
from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.models.encoders import EncoderConfig


def _norm(torch: str, path: str) -> list[Rule]:
    return [Rule(f"{torch}.weight", f"{path}/scale"), Rule(f"{torch}.bias", f"{path}/bias")]


BLOCK = [
    *_norm("norm1", "norm1"),
    *dense_rules("attn.qkv", "attn/qkv"),
    Rule("attn.q_bias", "attn/q_bias"),
    Rule("attn.v_bias", "attn/v_bias"),
    *dense_rules("attn.proj", "attn/proj"),
    *_norm("norm2", "norm2"),
    *dense_rules("mlp.fc1", "mlp/fc1"),
    *dense_rules("mlp.fc2", "mlp/fc2"),
]
# MAE-ST keeps q, k and v apart; here they are columns of one matrix.
SPLIT_BLOCK = [rule for rule in BLOCK if not rule.torch.startswith("attn.q")] + [
    rule
    for k, name in enumerate("qkv")
    for rule in (
        Rule(f"attn.{name}.weight", "attn/qkv/kernel", "linear", (k, 3)),
        Rule(f"attn.{name}.bias", "attn/qkv/bias", "vector", (k, 3)),
    )
]
PATCH_EMBED = [
    Rule("patch_embed.proj.weight", "patch_embed/kernel", "conv"),
    Rule("patch_embed.proj.bias", "patch_embed/bias"),
]
VIT = [
    *PATCH_EMBED,
    Rule("pos_embed", "pos_embed/table", "table"),
    *under(BLOCK, "blocks.{i}.", "blocks/"),
    *_norm("norm", "norm"),
]
VIDEOMAE_DECODER_ENDS = [
    Rule("encoder_to_decoder.weight", "decoder/embed/kernel", "linear"),
    Rule("mask_token", "decoder/mask_token"),
    *_norm("decoder.norm", "decoder/norm"),
    *dense_rules("decoder.head", "decoder/head"),
]
VIDEOMAE_PRETRAIN = [
    *under(VIT, "encoder.", "encoder/"),
    *under(BLOCK, "decoder.blocks.{i}.", "decoder/blocks/"),
    *VIDEOMAE_DECODER_ENDS,
]
VIDEOMAE_FINETUNE = [
    *under(VIT, "", "encoder/"),
    *_norm("fc_norm", "fc_norm"),
    *dense_rules("head", "head"),
]
SIGMA_PRETRAIN = [
    *VIDEOMAE_PRETRAIN,
    Rule("prototypes", "prototypes"),
    *(rule for i in range(4) for rule in dense_rules(f"head.{2 * i}", f"projection/fc{i}")),
]
ADAMAE_SAMPLER = [
    Rule("pos_embed_probs", "pos_embed", "table"),
    *under(BLOCK, "get_token_probs.0.", "block/"),
    *dense_rules("get_token_probs.1", "head"),
]
ADAMAE_PRETRAIN = [*VIDEOMAE_PRETRAIN, *under(ADAMAE_SAMPLER, "encoder.", "sampler/")]


def _separable(prefix: str) -> list[Rule]:
    return [
        Rule(f"{prefix}pos_embed_spatial", "pos_embed/space", "table"),
        Rule(f"{prefix}pos_embed_temporal", "pos_embed/time", "table"),
        Rule(f"{prefix}pos_embed_class", "cls_pos"),
        Rule(f"{prefix}cls_token", "cls_token"),
    ]


MAEST_PRETRAIN = [
    *under(
        [
            *PATCH_EMBED,
            *_separable(""),
            *under(SPLIT_BLOCK, "blocks.{i}.", "blocks/"),
            *_norm("norm", "norm"),
        ],
        "",
        "encoder/",
    ),
    *under(_separable("decoder_"), "", "decoder/"),
    *dense_rules("decoder_embed", "decoder/embed"),
    Rule("mask_token", "decoder/mask_token"),
    *under(SPLIT_BLOCK, "decoder_blocks.{i}.", "decoder/blocks/"),
    *_norm("decoder_norm", "decoder/norm"),
    *dense_rules("decoder_pred", "decoder/head"),
]

# The form in which the transformers library publishes VideoMAE.
HF_BLOCK = [
    *_norm("layernorm_before", "norm1"),
    *(
        Rule(f"attention.attention.{name}.weight", "attn/qkv/kernel", "linear", (k, 3))
        for k, name in enumerate(("query", "key", "value"))
    ),
    Rule("attention.attention.q_bias", "attn/q_bias"),
    Rule("attention.attention.v_bias", "attn/v_bias"),
    *dense_rules("attention.output.dense", "attn/proj"),
    *_norm("layernorm_after", "norm2"),
    *dense_rules("intermediate.dense", "mlp/fc1"),
    *dense_rules("output.dense", "mlp/fc2"),
]
HF_VIT = [
    Rule("embeddings.patch_embeddings.projection.weight", "patch_embed/kernel", "conv"),
    Rule("embeddings.patch_embeddings.projection.bias", "patch_embed/bias"),
    *under(HF_BLOCK, "encoder.layer.{i}.", "blocks/"),
    *_norm("layernorm", "norm"),
]
VIDEOMAE_HF_PRETRAIN = [
    *under(HF_VIT, "videomae.", "encoder/"),
    *under(HF_BLOCK, "decoder.decoder_layers.{i}.", "decoder/blocks/"),
    *VIDEOMAE_DECODER_ENDS,
]
VIDEOMAE_HF_FINETUNE = [
    *under(HF_VIT, "videomae.", "encoder/"),
    *_norm("fc_norm", "fc_norm"),
    *dense_rules("classifier", "head"),
]

# Names as `jaxvid.interop.images.prepare` leaves them.
IMAGE_VIT = [
    *PATCH_EMBED,
    Rule("cls_token", "cls_token"),
    Rule("cls_pos", "cls_pos"),
    Rule("patch_pos", "pos_embed/table", "table"),
    *under(BLOCK, "blocks.{i}.", "blocks/"),
    *_norm("norm", "norm"),
]

FAMILIES: dict[str, list[Rule]] = {
    "videomae_pretrain": VIDEOMAE_PRETRAIN,
    "videomae_finetune": VIDEOMAE_FINETUNE,
    "adamae_pretrain": ADAMAE_PRETRAIN,
    "maest_pretrain": MAEST_PRETRAIN,
    "sigma_pretrain": SIGMA_PRETRAIN,
    "image_vit": under(IMAGE_VIT, "", "encoder/"),
    "videomae_hf_pretrain": VIDEOMAE_HF_PRETRAIN,
    "videomae_hf_finetune": VIDEOMAE_HF_FINETUNE,
    **CONV_FAMILIES,
    **METHOD_FAMILIES,
}
METHOD_OF = {
    "videomae_pretrain": "videomae",
    "videomae_finetune": "supervised",
    "adamae_pretrain": "adamae",
    "maest_pretrain": "maest",
    "sigma_pretrain": "sigma",
    "videomae_hf_pretrain": "videomae",
    "videomae_hf_finetune": "supervised",
}
"""The method whose parameters a family has; the others are weights to start a method from."""
_NAMES_OF = {"tats": "videomae_pretrain", "videomae": "videomae_pretrain",
             "adamae": "adamae_pretrain", "maest": "maest_pretrain",
             "supervised": "videomae_finetune", "sigma": "sigma_pretrain",
             "sigma_dino": "sigma_pretrain"}  # fmt: skip
# Arrays of public checkpoints that carry no weights of their own: fixed sine-cosine tables.
FIXED_TABLES = (
    "encoder.pos_embed",
    "decoder.pos_embed",
    "pos_embed",
    "position_embeddings",
    "videomae.embeddings.position_embeddings",
)


def carries_weights(name: str) -> bool:
    """Whether a torch name stands for something that a network is judged by."""
    beside = name in FIXED_TABLES or name.endswith("num_batches_tracked")
    return not beside and not name.startswith(BESIDE)


def detect_family(names: Iterable[str]) -> str:
    """Family of a state dict by the names it has.

    Fine-tuned VideoMAE and AdaMAE networks are the same: "videomae_finetune".

    Raises:
      InteropError: it is none of ``FAMILIES``.
    """
    names = set(names)
    marks = {
        "adamae_pretrain": "encoder.get_token_probs.1.weight",
        "videomae_hf_pretrain": "decoder.decoder_layers.0.layernorm_before.weight",
        "videomae_hf_finetune": "classifier.weight",
        "sigma_pretrain": "prototypes",
        "videomae_pretrain": "encoder_to_decoder.weight",
        "maest_pretrain": "decoder_pos_embed_spatial",
        "videomae_finetune": "blocks.0.attn.q_bias",
        "image_vit": "blocks.0.attn.qkv.bias",
        **METHOD_MARKS,
        **CONV_MARKS,
    }
    for family, mark in marks.items():
        if mark in names:
            return family
    raise InteropError(
        f"none of the known families ({', '.join(FAMILIES)}) has names such as "
        f"{', '.join(sorted(names)[:3])}; name one with --family"
    )


def family_rules(family: str) -> list[Rule]:
    """Rules of a family by name."""
    return choose(family, FAMILIES, "family")


def family_of(method: str, encoder: EncoderConfig) -> str:
    """Family that has names for the encoder of a run.

    Args:
      method: name of its method.
      encoder: form of its network.

    Raises:
      InteropError: no public code has such a network.
    """
    if isinstance(encoder, BackboneConfig):
        if encoder.arch != "resnet":
            return encoder.arch
        if encoder.bottleneck or encoder.stem_pool:
            return "resnet2d3d"
        return {"none": "torchvision_r3d", "block": "torchvision_r2plus1d", "conv": "vcop"}[
            encoder.factor
        ]
    if method not in _NAMES_OF:
        raise InteropError(
            f"no public code has names for a transformer of '{method}'; name a family with --family"
        )
    return _NAMES_OF[method]
