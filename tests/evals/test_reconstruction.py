import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.evals.reconstruction import Reconstruction, fixed_visible
from tests.evals.fakes import FakeLoader, make_context


@pytest.fixture
def clips(monkeypatch):
    clips = np.random.default_rng(0).integers(0, 255, (7, 2, 2, 2, 3), np.uint8)
    FakeLoader({"test": (clips, np.full(7, -1))}).install(monkeypatch)
    return clips


def test_masks_depend_on_seed_and_row_alone():
    grid = (2, 4, 4)
    together = fixed_visible("random", 3, jnp.arange(6), grid, 0.75)
    alone = fixed_visible("random", 3, jnp.array([4]), grid, 0.75)
    np.testing.assert_array_equal(alone[0], together[4])
    assert together.shape == (6, 8)
    assert len(np.unique(np.asarray(together), axis=0)) == 6
    assert (fixed_visible("random", 4, jnp.arange(6), grid, 0.75) != together).any()


def test_tube_masks_repeat_over_time():
    visible = np.asarray(fixed_visible("tube", 0, jnp.arange(3), (2, 4, 4), 0.75))
    np.testing.assert_array_equal(visible[:, :4] + 16, visible[:, 4:])


@pytest.mark.parametrize("batch_size", [2, 16])
def test_losses_are_those_of_the_given_masks(clips, batch_size):
    found = Reconstruction(rho=0.5).run(make_context(batch_size=batch_size, seed=5))
    visible = fixed_visible("random", 5, jnp.arange(7), (2, 2, 2), 0.5)
    expected = np.asarray(visible).sum(axis=1) + clips.mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(found.per_example["loss_random"], expected, rtol=1e-5)
    assert found.metrics["loss_random"] == pytest.approx(expected.mean(), rel=1e-5)
    assert set(found.metrics) == {"loss_random", "loss_tube"}
    np.testing.assert_array_equal(found.per_example["index"], np.arange(7))


def test_same_losses_on_one_device_and_all(clips):
    one = Reconstruction(rho=0.5).run(make_context(devices=jax.devices()[:1]))
    many = Reconstruction(rho=0.5).run(make_context())
    np.testing.assert_allclose(
        one.per_example["loss_tube"], many.per_example["loss_tube"], rtol=1e-6
    )


def test_unknown_pattern_is_refused_with_the_choices():
    with pytest.raises(ConfigError, match="did you mean 'tube'"):
        Reconstruction(patterns=("tubes",))
