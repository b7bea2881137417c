"""From a sentence to its moment: at which second of a long video is it found?"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from jaxvid.core.config import ConfigError
from jaxvid.data.config import DataConfig
from jaxvid.data.manifest import Row
from jaxvid.data.sources import split_manifest
from jaxvid.data.text import sentence_features
from jaxvid.evals.api import EvalContext, EvalResult, Evaluator
from jaxvid.evals.knn import nearest
from jaxvid.evals.metrics import accuracy


class Spoken(NamedTuple):
    """A sentence of a video, whether its moment is shown, and from which second to which."""

    alignable: bool
    start: float
    end: float
    text: str

    @property
    def seconds(self) -> range:
        """Seconds that are right: floor(start) to ceil(end), both included."""
        return range(math.floor(self.start), math.ceil(self.end) + 1)


def read_annotations(path: str | Path) -> dict[str, list[Spoken]]:
    """Sentences by video of the layout of HTM-Align, ``{id: [[0 or 1, start, end, text], ...]}``.

    Raises:
      ConfigError: no such file, another layout, or no sentence that can be aligned.
    """
    if not Path(path).is_file():
        raise ConfigError(f"annotations '{path}': no such file")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {video: [_spoken(*row) for row in rows] for video, rows in content.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: expected {{video: [[0 or 1, start, end, sentence], ...]}} ({error})"
        ) from error
    if not any(s.alignable for rows in found.values() for s in rows):
        raise ConfigError(f"{path}: no sentence is marked as alignable")
    return found


def _spoken(alignable: Any, start: Any, end: Any, text: Any) -> Spoken:
    made = Spoken(bool(int(alignable)), float(start), float(end), str(text))
    if made.end < made.start:
        raise ValueError(f"'{text}' ends at {end}, before it starts at {start}")
    return made


def second_of(row: Row) -> int:
    """The second that a clip stands for: that of its middle.

    Raises:
      ConfigError: the clip has no ``start`` or ``end``.
    """
    if row.start is None or row.end is None:
        raise ConfigError(
            f"'{row.key}' has no start or end; python -m jaxvid.tools.make_align_manifest writes a "
            "manifest with a clip around every second"
        )
    return math.floor((row.start + row.end) / 2)


def align(
    texts: np.ndarray, clips: np.ndarray, seconds: np.ndarray, right: Sequence[range]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which second of one video is most similar to each of its sentences.

    Args:
      texts: (n, D) features of the sentences.
      clips: (m, D) features of the clips, compared by cosine.
      seconds: (m,) int that the clips stand for; of equally similar ones the first is taken.
      right: (n,) seconds that count as found.

    Returns:
      (n,) second found, (n,) bool whether it is right, (n,) share of the clips that would be.
    """
    order = np.argsort(seconds, kind="stable")
    found = seconds[order][nearest(texts, clips[order], 1)[1][:, 0]]
    hit = np.array([second in span for second, span in zip(found, right)])
    share = np.array([np.mean([s in span for s in seconds]) for span in right])
    return found, hit, share


@dataclass(frozen=True)
class Alignment(Evaluator):
    """R@1 of the alignable sentences of long videos over all seconds of their video.

    The split has a clip around every second (:mod:`jaxvid.tools.make_align_manifest`), clips of one
    video share a ``group``, the name that the annotations have for it. A sentence is found if the
    clip most similar to it lies between floor(start) and ceil(end) (Han et al. 2022).

    Attributes:
      annotations: JSON file, see :func:`read_annotations`.
    """

    uses_labels: ClassVar[bool] = False
    needs: ClassVar[str] = "embed_clip"

    annotations: str = ""

    def check_data(self, data: DataConfig, where: str) -> None:
        """Raise ConfigError unless sentences of videos of the evaluated split can be aligned."""
        if not self.annotations:
            raise ConfigError(f"{where}.annotations: empty; name the JSON file of the sentences")
        known = read_annotations(self.annotations)
        rows = split_manifest(data, data.eval_split).rows
        for row in rows:
            second_of(row)
        if not any(s.alignable for row in rows for s in known.get(row.group, ())):
            raise ConfigError(
                f"{self.annotations}: sentences of '{next(iter(known))}' and the like, none that "
                f"can be aligned of '{rows[0].group}' and the like (column 'group' of the manifest)"
            )

    def run(self, ctx: EvalContext) -> EvalResult:
        """Judge the weights of ``ctx``.

        Returns:
          "R@1" and "chance@1" in percent, the number of "sentences" that were judged, and of those
          "left_out", alignable ones whose video isn't there; per sentence "second", "correct".
        """
        data = ctx.data
        self.check_data(data, "alignment")
        table = ctx.features(data.eval_split, **self.views)
        clips = np.asarray(ctx.method.embed_clip(ctx.params, table.pooled))
        rows = [split_manifest(data, data.eval_split).rows[i] for i in table.index]
        video, second = np.array([r.group for r in rows]), np.array([second_of(r) for r in rows])
        known = read_annotations(self.annotations)
        alignable = [(name, s) for name, said in known.items() for s in said if s.alignable]
        judged = [(name, s) for name, s in alignable if name in set(video)]
        features = sentence_features(data, [s.text for _, s in judged])
        parts = []
        for name in dict.fromkeys(name for name, _ in judged):
            mine = video == name
            own = [i for i, (of, _) in enumerate(judged) if of == name]
            texts = np.stack([features[i] for i in own])
            right = [judged[i][1].seconds for i in own]
            parts.append(align(texts, clips[mine], second[mine], right))
        found, hit, share = (np.concatenate(part) for part in zip(*parts))
        metrics = {"R@1": accuracy(hit), "chance@1": 100.0 * float(share.mean())}
        metrics |= {"sentences": len(judged), "left_out": len(alignable) - len(judged)}
        return EvalResult(metrics, {"second": found, "correct": hit})
