import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.evals import linear
from jaxvid.evals.linear import Linear
from tests.evals.fakes import FakeLoader, constant_clips, make_context


def three_classes(n, seed, noise=20):
    """Clips with pooled features around three corners; (n, 3) uint8 and labels."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3
    centre = np.array([[60, 60, 180], [60, 180, 60], [180, 60, 60]])[label]
    return np.clip(centre + noise * rng.normal(size=(n, 3)), 0, 255), label


def test_held_out_takes_the_share_of_every_class():
    label = np.array([0] * 10 + [1] * 5 + [2])
    out = linear.held_out(label, 0.2, seed=0)
    assert [out[label == c].sum() for c in range(3)] == [2, 1, 0]
    assert (out != linear.held_out(label, 0.2, seed=1)).any()


def test_held_out_never_splits_a_group():
    label = np.repeat([0, 1], 20)
    group = np.repeat(np.arange(10), 4)
    out = linear.held_out(label, 0.4, seed=0, group=group).reshape(10, 4)
    assert (out.all(axis=1) | ~out.any(axis=1)).all()
    assert out[:5, 0].sum() == 2
    assert out[5:, 0].sum() == 2


def test_schedule_covers_every_example_once_per_epoch():
    rows = linear.make_schedule(n=7, batch=3, epochs=2, min_steps=1, seed=0)
    assert rows.shape == (5, 3)
    assert len(np.unique(rows[:2])) == 6
    assert linear.make_schedule(n=7, batch=30, epochs=1, min_steps=4, seed=0).shape == (4, 7)


def test_first_adam_step_is_the_learning_rate_along_the_gradient():
    x, label = jnp.array([[2.0], [-1.0]]), jnp.array([0, 1])
    rows = jnp.array([[0, 1]])
    found = linear.fit_linear(x, label, rows, jnp.array([0.1, 0.3]), classes=2, weight_decay=0.0)
    # The gradient of the kernel is (-0.75, 0.75), of the bias 0: Adam's first step has size lr.
    np.testing.assert_allclose(found["kernel"][:, 0], [[0.1, -0.1], [0.3, -0.3]], rtol=1e-5)
    np.testing.assert_allclose(found["bias"], 0, atol=1e-6)


def test_choose_rate_by_accuracy_then_loss():
    right, sure, wrong = [[0.1, 0.0]], [[4.0, 0.0]], [[0.0, 9.0]]
    best, sweep = linear.choose_rate(np.array([right, sure, wrong]), np.array([0]))
    assert best == 1
    assert sweep == [100, 100, 0]
    broken = np.array([[[np.inf, 0.0]], [[0.1, 0.0]]])
    assert linear.choose_rate(broken, np.array([0]))[0] == 1


def test_sweep_avoids_rates_that_do_not_learn(monkeypatch):
    x, label = three_classes(90, 0)
    x_test, label_test = three_classes(30, 1)
    FakeLoader(
        {"train": (constant_clips(x), label), "test": (constant_clips(x_test), label_test)}
    ).install(monkeypatch)
    config = Linear(lrs=(1e-9, 1e-2, 1e4), epochs=1, min_steps=60)
    found = config.run(make_context(batch_size=16))
    assert found.metrics["lr"] == 1e-2
    np.testing.assert_array_equal(found.tables["sweep"][:, 0], config.lrs)
    assert found.metrics["top1"] > 95
    assert found.tables["confusion"].sum() == 30
    np.testing.assert_array_equal(found.per_example["index"], np.arange(30))


def test_scale_of_a_channel_does_not_matter(monkeypatch):
    x, label = three_classes(60, 0)
    x_test, label_test = three_classes(30, 1)
    FakeLoader(
        {"train": (constant_clips(x), label), "test": (constant_clips(x_test), label_test)}
    ).install(monkeypatch)
    one, other = make_context(), make_context()
    other.params = {"scale": jnp.array([1e-3, 1.0, 1e3], jnp.float32)}
    config = Linear(lrs=(1e-2,), epochs=1, min_steps=40)
    first, second = config.run(one), config.run(other)
    np.testing.assert_array_equal(first.per_example["prediction"], second.per_example["prediction"])


def test_bad_share_is_refused():
    with pytest.raises(ConfigError, match="held_out"):
        Linear(held_out=1.0)


def test_a_hidden_layer_tells_what_a_linear_map_cannot(monkeypatch):
    """Two channels, of which one is bright in class 1 and both or none in class 0."""
    rng = np.random.default_rng(0)

    def draw(n):
        bright = rng.integers(0, 2, (n, 2))
        pixels = 60 + 120 * bright + rng.normal(0, 8, (n, 2))
        return constant_clips(np.hstack([pixels, np.full((n, 1), 90)])), bright.sum(1) % 2

    FakeLoader({"train": draw(120), "test": draw(60)}).install(monkeypatch)
    fields = {"lrs": (1e-2,), "min_steps": 200}
    linear_top1, mlp_top1 = (
        Linear(hidden=hidden, **fields).run(make_context(batch_size=32)).metrics["top1"]
        for hidden in (0, 16)
    )
    assert linear_top1 < 75
    assert mlp_top1 > 95
    with pytest.raises(ConfigError, match=r"linear\.hidden"):
        Linear(hidden=-1)
