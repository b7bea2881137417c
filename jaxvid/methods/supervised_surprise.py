"""Classification by what dense predictive coding did not foresee: unintentional actions."""

from dataclasses import dataclass

from jaxvid.core.config import check
from jaxvid.methods.supervised_blocks import SupervisedBlocks
from jaxvid.models.predictive import SurpriseClassifier


@dataclass(frozen=True)
class SupervisedSurprise(SupervisedBlocks):
    """The last blocks of a clip compared with their prediction, classified.

    The task is that of Oops (Epstein et al. 2020, arXiv:1911.11206): intentional, transitioning or
    unintentional. Han et al. 2020 (arXiv:2008.01065) call the input of their classifier a measure
    of discrepancy and leave it open; what is compared here, see
    :class:`jaxvid.models.predictive.SurpriseClassifier`, is a choice of this project. Started with
    ``init_from`` a DPC or MemDPC run it takes over everything but norm and head, which
    ``trains="(norm|head)/.*"`` trains alone.

    Attributes:
      ahead: how many of the blocks, the last ones, are predicted; what is to be judged belongs
        there.
      slots: vectors in the memory of MemDPC, 0 = none (DPC).
    """

    ahead: int = 3
    slots: int = 1024

    def __post_init__(self):
        super().__post_init__()
        fits = 0 < self.ahead < self.blocks
        check(fits, "method.ahead", self.ahead, f"in 1 ... blocks - 1 = {self.blocks - 1}")
        check(self.slots >= 0, "method.slots", self.slots, "0 (no memory) or more")

    def net(self) -> SurpriseClassifier:
        """The network."""
        return SurpriseClassifier(**self.net_fields(), predict=self.ahead, slots=self.slots)
