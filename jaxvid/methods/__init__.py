"""Methods by name. A method is one file and one line in ``METHODS``."""

from collections.abc import Mapping
from typing import Any

from jaxvid.core.config import ConfigError, choose, from_config
from jaxvid.core.method import Method
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

METHODS: dict[str, type[Method]] = {
    "videomae": VideoMAE,
    "maest": MAEST,
    "adamae": AdaMAE,
    "tats": TATS,
    "sigma": SigmaMLP,
    "sigma_dino": SigmaDINO,
    "simclr": SimCLR,
    "moco": MoCo,
    "ubernce": UberNCE,
    "coclr": CoCLR,
    "coclr_simultaneous": SimultaneousCoCLR,
    "dpc": DPC,
    "memdpc": MemDPC,
    "tubelet": TubeletContrast,
    "speed": SpeedChange,
    "order": ClipOrder,
    "turbo": Turbo,
    "turbo_language": TurboLanguage,
    "supervised": Supervised,
    "supervised_blocks": SupervisedBlocks,
    "supervised_surprise": SupervisedSurprise,
}


def make_method(config: Mapping[str, Any]) -> Method:
    """Build the method of a ``config.method`` group (``name`` plus the fields of its dataclass).

    Raises:
      ConfigError: unknown name or field, or a value that can't work.
    """
    fields = dict(config)
    if "name" not in fields:
        raise ConfigError(f"config.method: missing field 'name'; valid: {', '.join(METHODS)}")
    name = fields.pop("name")
    return from_config(choose(name, METHODS, "config.method.name"), fields, "config.method")
