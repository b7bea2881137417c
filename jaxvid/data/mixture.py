"""Training on several data sets at once, ``config.data.mixture``.

Every clip of the run has a number: step by step, row by row. The numbers are dealt out to the data
sets in a fixed pattern that repeats and spreads every set evenly: with weights 2 : 1 it is a, b, a.
So after every period the shares are exact, before that off by less than a clip or so, and any
contiguous rows of a batch (those of a host) hold nearly the shares of the whole. grain's
``MapDataset.mix`` deals alike, but rounds all weights to hundredths of the smallest.

Each data set goes through its own epochs: every one of its rows once, in an order drawn for that
epoch, then again. Nothing is left out at their ends, which don't fall together. An *epoch of the
mixture* is as many clips as all its data sets have rows; it sees a small set with a large weight
several times, and a large one with a small weight in part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.data.config import DataConfig
from jaxvid.data.sources import Record, make_source

_ORDER = 1  # tag of the random streams that order clips


@dataclass(frozen=True)
class Mixture:
    """Data sets dealt out by weight; position i is that in all their rows one after the other.

    Attributes:
      names: the manifest of each.
      parts: their records.
      shares: clips of each in one period of the pattern.
    """

    names: tuple[str, ...]
    parts: tuple[Sequence[Record], ...]
    shares: tuple[int, ...]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Record:
        part, start = self._part(i)
        record = self.parts[part][i - start]
        label = record.label if self.labelled else -1
        return record._replace(
            label=label, group=record.group if record.group < 0 else record.group + start
        )

    @cached_property
    def labelled(self) -> bool:
        """Whether one list of classes holds for all: then their labels mean the same."""
        lists = {tuple(part.class_names) for part in self.parts}
        return len(lists) == 1 and () not in lists and all(p[0].label >= 0 for p in self.parts)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.parts[0].class_names if self.labelled else ()

    def draw(self, seed: int, number: int) -> int:
        """Position of clip ``number`` of the run."""
        parts, ranks = self._pattern
        period, slot = divmod(number, len(parts))
        part = int(parts[slot])
        size = len(self.parts[part])
        epoch, place = divmod(period * self.shares[part] + int(ranks[slot]), size)
        return int(self._ends[part]) - size + int(order(seed, epoch, size, part)[place])

    def after(self, i: int) -> int:
        """The next position in the same data set."""
        part, start = self._part(i)
        return start + (i - start + 1) % len(self.parts[part])

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([len(part) for part in self.parts])

    def _part(self, i: int) -> tuple[int, int]:
        """Data set of a position, and the position of its first row."""
        part = int(np.searchsorted(self._ends, i, side="right"))
        return part, int(self._ends[part]) - len(self.parts[part])

    @cached_property
    def _pattern(self) -> tuple[np.ndarray, np.ndarray]:
        """Data set of every slot of a period, and the how manieth of its clips that is."""
        # Each set in the middles of as many equal parts of the period as it has clips there.
        middles = np.concatenate([(np.arange(n) + 0.5) / n for n in self.shares])
        slots = np.argsort(middles, kind="stable")
        parts = np.repeat(np.arange(len(self.shares)), self.shares)
        ranks = np.concatenate([np.arange(n) for n in self.shares])
        return parts[slots], ranks[slots]


def training_source(data: DataConfig) -> Sequence[Record]:
    """What training reads: the mixture, or the training split of the manifest.

    Raises:
      ConfigError: as :func:`~jaxvid.data.sources.make_source`; more classes than ``num_classes``.
    """
    shares = data.mixture_shares
    if not shares:
        return make_source(data, data.train_split)
    # Numbers of classes are checked below: those of sets without common classes don't matter.
    alone = [replace(data, manifest=name, mixture="", num_classes=0) for name in shares]
    parts = tuple(make_source(one, data.train_split) for one in alone)
    mixture = Mixture(tuple(shares), parts, tuple(shares.values()))
    classes = len(mixture.class_names)
    if 0 < data.num_classes < classes:
        raise ConfigError(
            f"config.data.mixture has {classes} classes, but config.data.num_classes is "
            f"{data.num_classes}"
        )
    return mixture


@lru_cache(maxsize=16)
def order(seed: int, epoch: int, count: int, part: int = 0) -> np.ndarray:
    """The rows of a data set in the order of one of its epochs: int (count,)."""
    return np.random.default_rng((seed, _ORDER, epoch, part)).permutation(count)
