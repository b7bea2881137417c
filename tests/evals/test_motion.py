"""The share of sampling on moving tokens: by hand, and on a real method and data."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.core.run import Run
from jaxvid.evals.api import EvalContext
from jaxvid.evals.motion import Motion, motion_ratio
from tests.runs import smoke


def test_ratio_by_hand():
    value = np.array([[0.4, 0.2, 0.2, 0.2], [0.1, 0.1, 0.1, 0.7]])
    moving = np.array([[True, False, False, False], [False, False, True, True]])
    ratio, per_clip = motion_ratio(value, moving)
    # moving: (0.4 + 0.1 + 0.7) / 3 = 0.4; the rest: (0.6 + 0.2) / 5 = 0.16
    assert ratio == pytest.approx(2.5)
    np.testing.assert_allclose(per_clip, [2.0, 4.0])


def test_clip_without_motion_has_no_ratio():
    _, per_clip = motion_ratio(np.ones((1, 4)), np.zeros((1, 4), bool))
    assert np.isnan(per_clip).all()


@pytest.fixture(scope="module")
def context():
    run = Run(smoke("videomae_ssv2", method__rho=0.5, method__mask="random"), jax.devices()[:1])
    state = run.fresh_state()
    return EvalContext(run.method, state.params, state.extra, run.data, run.mesh, batch_size=8)


def test_masks_without_a_sampler_give_one(context):
    found = Motion().run(context)
    assert found.metrics["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert 0.8 < found.metrics["ratio_visible"] < 1.2
    assert 0.0 < found.metrics["share"] < 0.9
    assert len(found.per_example["index"]) == 16


def test_other_data_is_refused(context):
    data = dataclasses.replace(context.data, source="video", manifest="some.csv")
    with pytest.raises(ConfigError, match=r"'motion' needs data.source='embedded'"):
        Motion().run(dataclasses.replace(context, data=data))
