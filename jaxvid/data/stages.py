"""Where the time of the loader goes: seconds of its threads by stage."""

import time

import numpy as np

# Index and plan; the frames (shrunk while they are decoded); crops to size; arrays of a batch.
STAGES = ("open", "decode", "crop", "stack")


class Laps:
    """A stopwatch of one piece of work; ``seconds`` f64 (4,) by stage."""

    def __init__(self):
        self.seconds = np.zeros(len(STAGES))
        self._mark = time.perf_counter()

    def __call__(self, stage: str) -> None:
        """What happened since the last call was ``stage``."""
        now = time.perf_counter()
        self.seconds[STAGES.index(stage)] += now - self._mark
        self._mark = now
