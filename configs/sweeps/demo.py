"""Three mask policies on the embedded videos, three seeds: a laptop's hour.

python -m launch.sweep configs/sweeps/demo.py --out=runs/demo_sweep
Argument after the colon: hard (moving, varied backgrounds); seconds=N (equal training time instead
of equal steps).
"""

from configs.common import base


def get_sweep(arg=""):
    words = base.words(arg, hard=False, seconds=0.0)
    level = ",hard" if words["hard"] else ""
    limit = {"max_seconds": words["seconds"]} if words["seconds"] else {}
    return {
        "runs": [
            {
                "name": name,
                "config": f"configs/tats_demo.py:method={name}{level}",
                "overrides": {**limit},
            }
            for name in ("videomae", "adamae", "tats")
        ],
        "seeds": (0, 1, 2),
    }
