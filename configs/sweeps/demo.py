"""Three mask policies on the embedded videos, three seeds: a laptop's hour.

python -m launch.sweep configs/sweeps/demo.py --out=runs/demo_sweep
Argument after the colon: hard (moving, varied backgrounds); seconds=N (equal training time instead
of equal steps).
"""


def get_sweep(arg=""):
    words = dict(w.partition("=")[::2] for w in arg.split(",") if w)
    level = ",hard" if "hard" in words else ""
    limit = {"max_seconds": float(words["seconds"])} if "seconds" in words else {}
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
