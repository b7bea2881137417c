"""Video self-supervised pretraining in JAX.

``jaxvid.load("runs/tats").encode("clip.mp4")`` gives the features of a video.
"""

__all__ = ["load"]


def __getattr__(name: str):
    # Late, so that ``import jaxvid`` costs nothing and touches no device.
    if name == "load":
        from jaxvid.model import load

        return load
    raise AttributeError(f"module 'jaxvid' has no attribute {name!r}")
