"""``config.method`` groups: one function per method, with its documented defaults."""

from typing import Any

from ml_collections import ConfigDict

from configs.common import models
from jaxvid.core.checkpoint import expand_init_from
from jaxvid.core.config import ConfigError, choose, from_config, to_config
from jaxvid.methods.adamae import AdaMAE
from jaxvid.methods.coclr import CoCLR
from jaxvid.methods.coclr_simultaneous import SimultaneousCoCLR
from jaxvid.methods.dpc import DPC, MemDPC
from jaxvid.methods.maest import MAEST
from jaxvid.methods.masked import VideoMAE
from jaxvid.methods.moco import MoCo, UberNCE
from jaxvid.methods.order import ClipOrder
from jaxvid.methods.sigma import SigmaMLP
from jaxvid.methods.sigma_dino import SigmaDINO
from jaxvid.methods.simclr import SimCLR
from jaxvid.methods.speed import SpeedChange
from jaxvid.methods.supervised import Supervised
from jaxvid.methods.supervised_blocks import SupervisedBlocks
from jaxvid.methods.supervised_surprise import SupervisedSurprise
from jaxvid.methods.tats import TATS
from jaxvid.methods.tubelet import TubeletContrast
from jaxvid.methods.turbo import Turbo
from jaxvid.methods.turbo_language import TurboLanguage
from jaxvid.models.image_vit import SIDES


def videomae(**fields: Any) -> ConfigDict:
    """VideoMAE: ViT-B, tube mask, rho 0.9, normalised pixels; any field can be replaced."""
    fields = {"encoder": models.vit("B")} | fields
    return to_config(from_config(VideoMAE, fields, "methods.videomae"), name="videomae")


def maest(**fields: Any) -> ConfigDict:
    """MAE-ST: ViT-L, random mask, rho 0.9, learned separable positions, 8 target frames."""
    encoder = models.vit("L", pos="separable", cls=True, qkv_bias="full")
    return to_config(
        from_config(MAEST, {"encoder": encoder} | fields, "methods.maest"), name="maest"
    )


def supervised(**fields: Any) -> ConfigDict:
    """Fine-tuning: ViT-B, mixup, CutMix, RandAugment, erasing; ``num_classes`` must be given."""
    fields = {"encoder": models.vit("B")} | fields
    return to_config(from_config(Supervised, fields, "methods.supervised"), name="supervised")


def supervised_blocks(**fields: Any) -> ConfigDict:
    """Fine-tuning of DPC and MemDPC: 2D3D-ResNet-18, 8 blocks of 5 frames and their aggregator."""
    fields = {"encoder": models.backbone("r2d3d_18")} | fields
    config = from_config(SupervisedBlocks, fields, "methods.supervised_blocks")
    return to_config(config, name="supervised_blocks")


def supervised_surprise(**fields: Any) -> ConfigDict:
    """Unintentional actions by MemDPC: three of eight blocks compared with their prediction."""
    fields = {"encoder": models.backbone("r2d3d_18")} | fields
    config = from_config(SupervisedSurprise, fields, "methods.supervised_surprise")
    return to_config(config, name="supervised_surprise")


def adamae(**fields: Any) -> ConfigDict:
    """AdaMAE: ViT-B, rho 0.95, sampler of one block with 8 heads, sampling loss times 1e-4."""
    fields = {"encoder": models.vit("B")} | fields
    return to_config(from_config(AdaMAE, fields, "methods.adamae"), name="adamae")


def tats(**fields: Any) -> ConfigDict:
    """TATS: ViT-B, rho 0.95, one block of trajectory attention, 10 epochs of uniform masks, k = 1.

    ``config.optim`` needs an entry ``policy`` for the sampler.
    """
    fields = {"encoder": models.vit("B")} | fields
    return to_config(from_config(TATS, fields, "methods.tats"), name="tats")


def sigma(**fields: Any) -> ConfigDict:
    """SIGMA: ViT-B, tube mask, rho 0.9, 3,000 prototypes, targets from an MLP on the pixels."""
    fields = {"encoder": models.vit("B")} | fields
    return to_config(from_config(SigmaMLP, fields, "methods.sigma"), name="sigma")


def sigma_dino(**fields: Any) -> ConfigDict:
    """SIGMA with targets from a frozen DINO ViT-B/16, which ``config.init_from`` must bring."""
    fields = {"encoder": models.vit("B"), "teacher": models.image_vit("B", "dino")} | fields
    return to_config(from_config(SigmaDINO, fields, "methods.sigma_dino"), name="sigma_dino")


def sigma_arm(words: dict[str, Any], **fields: Any) -> tuple[ConfigDict, Any]:
    """``config.method`` and ``config.init_from`` of SIGMA by its config's words.

    Args:
      words: "mlp" or "dino"; "teacher", the file or run of the latter, and "family", its form.
      fields: of the method.

    Raises:
      ConfigError: words that don't go together.
    """
    if words["dino"] and words["mlp"]:
        raise ConfigError("'mlp' and 'dino' after the colon: choose one")
    if not words["dino"]:
        if words["teacher"]:
            raise ConfigError("'teacher=' after the colon needs 'dino' beside it")
        return sigma(**fields), ""
    side = choose(words["family"], SIDES, "argument family=")[1]
    network = models.image_vit("B", words["family"])
    method = sigma_dino(**fields, teacher=network, teacher_size=side)
    rows = ((words["teacher"], "params/encoder/", "extra/teacher"),)
    return method, rows if words["teacher"] else ""


# How co-training makes pairs of clips (public code): of two clips of the same frames one changes
# colours, of others each with chance 0.3; grey is one channel, drawn for every frame.
CO_TRAINING_PAIRS = {
    "same_frames": 0.5,
    "colours": "coclr",
    "clip_augment": {"grey_channel": True},
}


def simclr(**fields: Any) -> ConfigDict:
    """SimCLR on clips: S3D, temperature 0.1."""
    return to_config(from_config(SimCLR, fields, "methods.simclr"), name="simclr")


def moco(**fields: Any) -> ConfigDict:
    """MoCo v2 on clips: S3D with BatchNorm over groups of 32 clips, 2,048 keys, m = 0.999."""
    return to_config(from_config(MoCo, fields, "methods.moco"), name="moco")


def ubernce(**fields: Any) -> ConfigDict:
    """UberNCE: MoCo whose positives are the keys of the same class."""
    return to_config(from_config(UberNCE, fields, "methods.ubernce"), name="ubernce")


def coclr(**fields: Any) -> ConfigDict:
    """CoCLR: MoCo with positives mined by the frozen network of the other view, top 5."""
    return to_config(from_config(CoCLR, fields, "methods.coclr"), name="coclr")


def coclr_simultaneous(**fields: Any) -> ConfigDict:
    """CoCLR without stages: both views' networks train at once and mine for each other."""
    kind = from_config(SimultaneousCoCLR, fields, "methods.coclr_simultaneous")
    return to_config(kind, name="coclr_simultaneous")


def co_training_start(
    own: str, sampler: str, simultaneous: bool = False
) -> tuple[tuple[str, str, str], ...] | str:
    """``config.init_from`` of a CoCLR stage; "" unless both runs are named.

    Args:
      own: run of the trained view: its network is the start of query and key network.
      sampler: run of the other view: its query network with head and statistics finds positives.
      simultaneous: the other view's network is trained too, from ``sampler``.
    """
    if not (own and sampler):
        return ""
    network = r"(extra/)?(?=params/(encoder|head)/|batch_stats/)"
    mine = expand_init_from(own, CoCLR.inherits)
    if simultaneous:
        theirs = (
            (r"params/(?=(encoder|head)/)", "params/other"),
            (r"extra/(?=batch_stats/)", "extra/other"),
            (network, "extra/other/key"),
        )
        return (*mine, *((sampler, *row) for row in theirs))
    return (*mine, (sampler, network, "extra/sampler"))


def dpc(**fields: Any) -> ConfigDict:
    """DPC: 2D3D-ResNet-18, 8 blocks of 5 frames, three predicted, groups of 64 clips."""
    return to_config(from_config(DPC, fields, "methods.dpc"), name="dpc")


def memdpc(**fields: Any) -> ConfigDict:
    """MemDPC: both directions, 1,024 memory slots, groups of 16 clips."""
    return to_config(from_config(MemDPC, fields, "methods.memdpc"), name="memdpc")


def tubelet(**fields: Any) -> ConfigDict:
    """Tubelet contrast: R(2+1)D-18, two rotating tubelets on curved paths, temperature 0.2."""
    return to_config(from_config(TubeletContrast, fields, "methods.tubelet"), name="tubelet")


def speed(**fields: Any) -> ConfigDict:
    """Speed change, classified and localised, with MoCo: R(2+1)D, nine classes, seven places."""
    return to_config(from_config(SpeedChange, fields, "methods.speed"), name="speed")


def order(**fields: Any) -> ConfigDict:
    """Clip order prediction: R(2+1)D, three clips, gaps of eight frames."""
    return to_config(from_config(ClipOrder, fields, "methods.order"), name="order")


def turbo(**fields: Any) -> ConfigDict:
    """Turbo: ViT-B with a class token, half of the tokens seen, the other half reconstructed."""
    fields = {"encoder": models.vit("B", cls=True)} | fields
    return to_config(from_config(Turbo, fields, "methods.turbo"), name="turbo")


def turbo_language(**fields: Any) -> ConfigDict:
    """Turbo between clips and sentences: ViT-B, cosines over 0.07 with features of width 768."""
    fields = {"encoder": models.vit("B", cls=True)} | fields
    config = from_config(TurboLanguage, fields, "methods.turbo_language")
    return to_config(config, name="turbo_language")
