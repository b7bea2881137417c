"""What all configs share: the top level, the variants after the colon, the smoke setting."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ml_collections import ConfigDict

from configs.common import data, models
from jaxvid.core.config import ConfigError, suggest, to_config
from jaxvid.core.run import RunConfig

SIZES = ("S", "B", "L", "H")


@dataclass(frozen=True)
class Variant:
    """What may stand after the colon, as in ``configs/tats_ssv2.py:L,rho=0.9,small,smoke``.

    Attributes:
      size: encoder size.
      rho: mask ratio.
      small: train on the class-balanced 15 % subset.
      smoke: the same code in a minute: tiny network, few steps, embedded videos.
    """

    size: str = "B"
    rho: float = 0.9
    small: bool = False
    smoke: bool = False

    @property
    def subset(self) -> float:
        """Share of the training videos."""
        return 0.15 if self.small else 1.0


def words(arg: str | None, **defaults: Any) -> dict[str, Any]:
    """Words of a config's argument: ``name=value`` (of the default's type) and plain flags.

    >>> words("method=adamae,hard", method="tats", hard=False, epochs=20.0)
    {'method': 'adamae', 'hard': True, 'epochs': 20.0}

    Raises:
      ConfigError: an unknown word, with the nearest valid one; or a wrong value.
    """
    found = dict(defaults)
    valid = [name if kind is False else f"{name}=" for name, kind in defaults.items()]
    for word in filter(None, (arg or "").split(",")):
        name, equals, value = word.partition("=")
        if name + equals not in valid:
            raise ConfigError(f"'{word}' after the colon: {suggest(word, valid)}")
        try:
            found[name] = type(defaults[name])(value) if equals else True
        except ValueError as error:
            raise ConfigError(f"'{word}' after the colon: {error}") from error
    return found


def pixel_statistics(words: dict[str, Any]) -> dict[str, tuple[float, ...]]:
    """Overrides of a sweep from its words ``mean=`` and ``std=``; nothing without them.

    Raises:
      ConfigError: a mean without a deviation.
    """
    if words["mean"] and not words["std"]:
        raise ConfigError("'mean=' after the colon needs 'std=' beside it")
    if not words["std"]:
        return {}
    return {f"method.{name}": (words[name],) * 3 for name in ("mean", "std")}


def parse(arg: str | None, without: Sequence[str] = (), **defaults: Any) -> Variant:
    """Variant named by a config's argument; ``without`` names fields that don't apply.

    >>> parse("L,rho=0.95,smoke")
    Variant(size='L', rho=0.95, small=False, smoke=True)

    Raises:
      ConfigError: an unknown word, with the nearest valid one.
    """
    variant = replace(Variant(), **defaults)
    values = {f.name: getattr(variant, f.name) for f in fields(Variant)}
    kinds = {name: type(value) for name, value in values.items() if name not in without}
    for word in filter(None, (arg or "").split(",")):
        name, _, value = word.partition("=")
        if word in SIZES:
            variant = replace(variant, size=word)
        elif kinds.get(name) is bool and not value:
            variant = replace(variant, **{name: True})
        elif name in kinds and value and kinds[name] is not bool:
            try:
                variant = replace(variant, **{name: kinds[name](value)})
            except ValueError as error:
                raise ConfigError(f"'{word}' after the colon: {error}") from error
        else:
            valid = (*SIZES, *(f"{n}=" if k is not bool else n for n, k in kinds.items()))
            raise ConfigError(f"'{word}' after the colon: {suggest(word, valid)}")
    return variant


def run(**fields: Any) -> ConfigDict:
    """Top level of a config with its documented defaults (``core.run.RunConfig``)."""
    return to_config(RunConfig(method={}, data={}, optim={}, **fields))


def tiny_encoder(encoder: ConfigDict) -> ConfigDict:
    """A small network of the same kind."""
    if "arch" in encoder:
        groups = 4 if encoder.bn_group_size else None
        return models.backbone(
            "vcop_r3d", widths=(8, 8, 12, 12), bn_group_size=groups, bn_track=encoder.bn_track
        )
    tiny = models.vit("tiny", patch=(2, 8, 8))
    for name in ("pos", "qkv_bias", "cls", "drop_path"):
        tiny[name] = encoder[name]
    return tiny


def smoke(config: ConfigDict) -> ConfigDict:
    """The same run in a minute: embedded videos, a tiny encoder, eight steps."""
    classes = config.data.num_classes
    config.data = data.embedded(
        frames=8, stride=2, size=32, embedded_train=32, embedded_test=16,
        plan=config.data.plan, crop=config.data.crop, repeat=config.data.repeat,
    )  # fmt: skip
    config.batch_size, config.steps, config.epochs = 8, 8, 0.0
    config.checkpoint.every_epochs, config.log_every = 1.0, 2
    config.method.encoder = tiny_encoder(config.method.encoder)
    for name, value in (("decoder_width", 32), ("decoder_depth", 1), ("decoder_heads", 2),
                        ("m_o", 0.25), ("num_landmarks", 8), ("sampler_heads", 2),
                        ("dim", 16), ("queue", 16), ("topk", 2), ("blocks", 4),
                        ("block_frames", 2), ("stride", 1), ("predict", 2), ("ahead", 2),
                        ("slots", 8), ("contrast_group_size", 4), ("prototypes", 24),
                        ("head_widths", (32,)),
                        ("teacher", models.image_vit("tiny", "dino", patch=(1, 8, 8))),
                        ("teacher_size", 32)):  # fmt: skip
        if name in config.method:
            config.method[name] = value
    if "teacher" in config.method and not config.init_from:
        config.method.teacher_weights = "random"
    if config.method.get("num_classes") == classes and classes:
        config.method.num_classes = config.data.num_classes
    for entry in config.optim.values():
        entry.warmup_epochs = min(entry.warmup_epochs, 0.5)
        entry.milestones = tuple(0.5 for _ in entry.milestones)
    for entry in config.evals.values():
        entry.every_epochs = 0.0
    return config
