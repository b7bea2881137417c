"""Reading of golden fixtures: arrays by key, and comparison at the tolerance a fixture states."""

import json
import os
from pathlib import Path

import numpy as np

OWN = Path(__file__).parent / "golden"


def golden_dir() -> Path:
    """Folder named by ``JAXVID_GOLDEN``, else the subset that travels with the project."""
    return Path(os.environ.get("JAXVID_GOLDEN") or OWN)


class Fixture:
    """One ``.npz`` of golden values.

    Attributes:
      meta: the fixture's description; ``config`` is its entry of hyper-parameters.
      arrays: values by key, such as ``"in/video"`` or ``"param/blocks.0.norm1.weight"``.
      checked: keys compared so far.
    """

    def __init__(self, path: Path):
        with np.load(path) as file:
            self.meta = json.loads(str(file["meta"]))
            self.arrays = {k: file[k] for k in file.files if k != "meta"}
        self.name, self.kind, self.config = path.stem, self.meta["kind"], self.meta["config"]
        self.checked: set[str] = set()

    def group(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays under ``prefix/`` with the prefix taken off."""
        start = prefix + "/"
        return {k[len(start) :]: v for k, v in self.arrays.items() if k.startswith(start)}

    def check(self, key: str, value) -> None:
        """Assert ``max|value - ref| <= tolerance[key] * scale[key]`` (equal for int and bool)."""
        ref, value = self.arrays[key], np.asarray(value)
        assert value.shape == ref.shape, f"{key}: shape {value.shape}, reference {ref.shape}"
        self.checked.add(key)
        if ref.dtype.kind in "biuU":
            np.testing.assert_array_equal(value, ref, err_msg=key)
            return
        bound = self.meta["tolerance"][key] * self.meta["scale"][key]
        gap = np.abs(value.astype(np.float64) - ref).max() if ref.size else 0.0
        assert gap <= bound, f"{self.name} {key}: off by {gap:.3g}, allowed {bound:.3g}"

    def unchecked(self, *prefixes: str) -> list[str]:
        """Keys under ``prefixes`` that no check has touched."""
        return sorted(
            k for k in self.arrays if k.split("/")[0] in prefixes and k not in self.checked
        )
