"""Cross entropy with soft targets and label smoothing."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxvid.losses.classification import smooth_targets, soft_cross_entropy_loss


def test_targets_by_hand():
    np.testing.assert_allclose(
        smooth_targets(jnp.array([1]), 4, 0.1), [[0.025, 0.925, 0.025, 0.025]], rtol=1e-6
    )
    np.testing.assert_array_equal(smooth_targets(jnp.array([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])


def test_labels_that_are_no_class_are_not_hidden():
    bad = smooth_targets(jnp.array([-1, 4, 3]), 4, 0.1)
    assert np.isnan(bad[:2]).all() and not np.isnan(bad[2]).any()


def test_loss_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]]))
    target = jnp.array([[0.5, 0.5, 0.0]])
    expect = 0.5 * np.log(2) + 0.5 * np.log(4)
    np.testing.assert_allclose(soft_cross_entropy_loss(logits, target), [expect], rtol=1e-6)


def test_gradient_is_softmax_minus_target():
    logits = jnp.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])
    target = smooth_targets(jnp.array([2, 1]), 3, 0.2)
    grad = jax.grad(lambda x: soft_cross_entropy_loss(x, target).sum())(logits)
    np.testing.assert_allclose(grad, jax.nn.softmax(logits) - target, atol=1e-6)


def test_low_precision_logits_give_an_f32_loss():
    logits = jnp.array([[300.0, -300.0]], jnp.bfloat16)
    loss = soft_cross_entropy_loss(logits, jnp.array([[0.0, 1.0]]))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, [600.0], rtol=1e-2)
