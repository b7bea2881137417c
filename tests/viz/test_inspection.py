import jax
import numpy as np

from jaxvid.core.types import Context
from jaxvid.methods import make_method
from jaxvid.viz import reconstruction
from jaxvid.viz.inspection import inspect_clips

CONFIG = {
    "name": "videomae",
    "mask": "random",
    "rho": 0.75,
    "decoder_width": 16,
    "decoder_depth": 1,
    "decoder_heads": 2,
    "encoder": {"width": 16, "depth": 1, "heads": 2, "patch": (2, 8, 8)},
}


def test_clips_of_a_method_have_all_that_the_picture_needs():
    method = make_method(CONFIG)
    video = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16, 3), dtype=np.uint8)
    batch = {"video": video, "label": np.zeros(3, np.int32), "valid": np.array([True, True, False])}
    key = jax.random.key(0)
    ctx = Context(step=0, total_steps=1, epoch=0.0, train=False, key=key)
    params, extra = method.init(key, method.augment({"video": video}, ctx))

    shown = inspect_clips(method, params, extra, batch)
    reconstruction.check_inspection(shown)
    assert shown["grid"] == (2, 2, 2)
    np.testing.assert_allclose(shown["video"], video[:2] / 255.0, atol=1e-6)
    np.testing.assert_array_equal((~shown["mask"]).sum(1), [2, 2])
    np.testing.assert_array_equal(np.isnan(shown["error"]), ~shown["mask"])

    again = inspect_clips(method, params, extra, batch)
    np.testing.assert_array_equal(again["mask"], shown["mask"])
