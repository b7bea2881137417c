"""PPO and REINFORCE for samplers: identities, directions, the toy fixed point of the spec."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid.losses import policy as pl
from jaxvid.masking.sampler import sample_visible

B, N, NM = 2, 8, 6


def make_case(seed=0):
    ks = jax.random.split(jax.random.key(seed), 5)
    logits = jax.random.normal(ks[0], (B, N))
    masked = sample_visible(jnp.zeros((B, N)), jax.random.split(ks[1], B), N - NM).masked
    error = jax.random.uniform(ks[2], (B, NM))
    return logits, masked, error, jax.random.uniform(ks[3], (B,))


def log_p(logits):
    return jax.nn.log_softmax(logits)


def test_unmoved_policy_has_ratio_one_and_the_actor_critic_gradient():
    logits, masked, error, value = make_case()
    advantage, c1, c2, c3 = error - value[:, None], 0.7, 0.3, 0.2

    def ppo(args):
        logits, psi = args
        logp = log_p(logits)
        actor = pl.ppo_token_loss(logp, logp, masked, advantage, 0.2)
        critic = pl.value_loss(psi, error.mean(-1), psi)
        return (c1 * actor + c2 * critic - c3 * pl.entropy(logp)).mean()

    def actor_critic(args):
        logits, psi = args
        logp = log_p(logits)
        chosen = jnp.take_along_axis(logp, masked, 1)
        h = -(jnp.exp(logp) * logp).sum(-1)
        score = c1 * (advantage * chosen).mean(-1) - c2 * (psi - error.mean(-1)) ** 2 + c3 * h
        return -score.mean()

    for a, b in zip(jax.grad(ppo)((logits, value)), jax.grad(actor_critic)((logits, value))):
        np.testing.assert_allclose(a, b, atol=1e-6)
    metrics = pl.policy_metrics(log_p(logits), log_p(logits), masked, value, error.mean(-1), 0.2)
    assert metrics["clip_fraction"] == 0 and metrics["kl"] == 0
    ratio = pl.importance_ratio(log_p(logits), log_p(logits))
    assert jnp.abs(ratio - 1).max() < 1e-6


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [(1.3, 1.0, 0.0), (1.1, 2.0, 2.0), (0.5, 1.0, 1.0), (0.7, -1.0, 0.0), (1.3, -2.0, -2.0)],
)
def test_clipping_stops_the_gradient_on_the_winning_side(ratio, advantage, slope):
    grad = jax.grad(pl.clipped_objective)(jnp.float32(ratio), jnp.float32(advantage), 0.2)
    assert grad == pytest.approx(slope)


def test_tokens_beyond_the_clip_do_not_move():
    logits, masked, error, _ = make_case()
    logp = log_p(logits)
    old = logp.at[0, masked[0, 2]].add(-1.0)  # ratio e > 1.2
    advantage = jnp.abs(error) + 0.1

    def loss(logp, keep):
        return (pl.ppo_token_loss(logp, old, masked, advantage * keep, 0.2)).sum()

    grad = jax.grad(loss)(logp, jnp.ones_like(error))
    assert grad[0, masked[0, 2]] == 0
    assert (jnp.take_along_axis(grad, masked, 1) != 0).sum() == B * NM - 1


def test_no_advantage_and_no_other_terms_give_no_gradient():
    logits, masked, error, _ = make_case()
    for loss in (pl.ppo_token_loss, pl.ppo_clip_mean_loss):
        zero = jnp.zeros_like(error if loss is pl.ppo_token_loss else error[:, 0])
        grad = jax.grad(
            lambda x, f=loss, a=zero: f(log_p(x), log_p(logits * 0.9), masked, a, 0.2).sum()
        )(logits)
        assert not grad.any()


def test_entropy_of_the_uniform_policy_is_maximal():
    uniform = jnp.zeros((1, 1568))
    assert pl.entropy(log_p(uniform))[0] == pytest.approx(7.3576, abs=1e-4)
    grad = jax.grad(lambda x: pl.entropy(log_p(x)).sum())(uniform)
    assert jnp.abs(grad).max() < 1e-8
    metrics = pl.policy_metrics(
        log_p(uniform), log_p(uniform), jnp.array([[0]]), jnp.ones(1), jnp.ones(1), 0.2
    )
    assert metrics["entropy"] == pytest.approx(1.0, abs=1e-6)


def test_one_step_from_uniform_raises_the_hardest_masked_token_most():
    error = jnp.array([[0.1, 0.9, 0.5, 0.3, 0.6, 0.2]])
    masked, visible = jnp.arange(6)[None], jnp.array([6, 7])
    uniform = jnp.zeros((1, N))
    value = error.mean(-1)

    def loss(logits):
        logp = log_p(logits)
        return (
            pl.ppo_token_loss(logp, log_p(uniform), masked, error - value[:, None], 0.2).sum()
            - pl.entropy(logp).sum()
        )

    logits = -10.0 * jax.grad(loss)(uniform)
    move = (log_p(logits) - log_p(uniform))[0]
    assert move.argmax() == 1 and move[1] > 0 and move[0] < 0
    assert move[:6].argsort().tolist() == error[0].argsort().tolist()
    # The logits of visible tokens aren't touched: they only follow the normalisation.
    np.testing.assert_allclose(logits[0, visible], 0.0, atol=1e-6)


def test_nothing_flows_to_what_was_recorded():
    logits, masked, error, value = make_case()
    old = log_p(logits * 0.9)

    def loss(old, error, value_old):
        logp = log_p(logits)
        actor = pl.ppo_token_loss(logp, old, masked, error - value_old[:, None], 0.2)
        critic = pl.value_loss(value, error.mean(-1), value_old, clip=0.1)
        return (actor + critic + pl.reinforce_loss(logp, masked, error)).sum()

    for grad in jax.grad(loss, (0, 1, 2))(old, error, value):
        assert not grad.any()


def test_value_clipping_by_hand():
    value, target, old = jnp.array([2.0]), jnp.array([0.5]), jnp.array([1.0])
    assert pl.value_loss(value, target, old)[0] == pytest.approx(2.25)
    # Clipped prediction 1.1 is nearer to the target, so the larger, unclipped error counts.
    assert pl.value_loss(value, target, old, clip=0.1)[0] == pytest.approx(2.25)
    # Now the unclipped prediction is nearer: the clipped one counts, without gradient.
    value = jnp.array([0.5])
    assert pl.value_loss(value, target, old, clip=0.1)[0] == pytest.approx(0.16)
    assert jax.grad(lambda v: pl.value_loss(v, target, old, 0.1).sum())(value)[0] == 0


def test_clip_mean_uses_the_geometric_mean_ratio():
    logits, masked, _, _ = make_case()
    logp, old = log_p(logits), log_p(logits * 0.95)
    gap = jnp.take_along_axis(logp, masked, 1).mean(-1) - jnp.take_along_axis(old, masked, 1).mean(
        -1
    )
    advantage = jnp.array([0.5, -0.5])
    expected = -jnp.minimum(jnp.exp(gap) * advantage, jnp.clip(jnp.exp(gap), 0.8, 1.2) * advantage)
    ours = pl.ppo_clip_mean_loss(logp, old, masked, advantage, 0.2)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_resampled_compares_masks_place_by_place():
    logp = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]]))
    old = jnp.log(jnp.full((1, 4), 0.25))
    masked, redrawn = jnp.array([[0, 1]]), jnp.array([[1, 2]])
    ours = pl.ppo_resampled_loss(logp, old, masked, redrawn, jnp.array([[1.0, 1.0]]), 10.0)
    assert ours[0] == pytest.approx(-(0.2 / 0.25 + 0.3 / 0.25) / 2)


def test_extreme_logits_stay_finite_in_bfloat16():
    sign = jnp.where(jnp.arange(N) % 2 == 0, 1.0, -1.0)
    now = jnp.bfloat16(50 * jnp.tile(sign, (B, 1)))
    masked = make_case()[1]

    def loss(now):
        logp = log_p(now.astype(jnp.float32))
        old = log_p(-now.astype(jnp.float32))
        out = pl.ppo_token_loss(logp, old, masked, -jnp.ones((B, NM)), 0.2)
        return (out - pl.entropy(logp) + pl.reinforce_loss(logp, masked, jnp.ones((B, NM)))).sum()

    value, grad = jax.value_and_grad(loss)(now)
    assert jnp.isfinite(value) and jnp.isfinite(grad).all()
    logp = log_p(now.astype(jnp.float32))
    assert jnp.isfinite(logp).all() and jnp.isfinite(pl.importance_ratio(logp, -logp)).all()


def test_reinforce_bounds_probabilities_as_the_reference_does():
    p = jnp.array([[1e-9, 1.0 - 1e-9]])
    assert pl.bounded(jnp.log(p))[0, 0] == pytest.approx(np.log(2.0**-23))
    grad = jax.grad(lambda x: pl.reinforce_loss(x, jnp.array([[0, 1]]), jnp.ones((1, 2))).sum())(
        jnp.array([[-20.0, -0.5]])
    )
    assert grad[0, 0] == 0 and grad[0, 1] == pytest.approx(-0.5)


def test_reinforce_raises_the_hardest_hidden_token_and_rests_at_p_equal_to_p_hidden():
    masked, error = jnp.arange(6)[None], jnp.array([[0.1, 0.9, 0.5, 0.3, 0.6, 0.2]])
    loss = lambda x, e: pl.reinforce_loss(log_p(x), masked, e).sum()  # noqa: E731
    step = -jax.grad(loss)(jnp.zeros((1, N)), error)[0]
    assert step[:6].argsort().tolist() == error[0].argsort().tolist() and step.argmax() == 1
    # Equal errors: expected gradient over masks with P(hidden) = h is zero at p = h / sum(h) only.
    h = jnp.array([0.9, 0.8, 0.7, 0.6])
    expected = lambda x: -(h * log_p(x)).sum()  # noqa: E731
    assert jnp.abs(jax.grad(expected)(jnp.log(h))).max() < 1e-6
    assert jnp.abs(jax.grad(expected)(jnp.zeros(4))).max() > 0.05


def settle(loss_of, steps=3000, n=196, batch=8, rate=0.01):
    """Logits (n,) after training on frozen errors: 1/8 of the tokens 1.0, the rest 0.3."""
    hard = jnp.arange(n) % 8 == 0
    errors = jnp.where(hard, 1.0, 0.3)
    tx = optax.adam(rate)

    def body(carry, key):
        params, state = carry
        logits = jnp.tile(params["logits"], (batch, 1))
        keys = jax.random.split(key, batch)
        masked = sample_visible(log_p(logits), keys, n // 10).masked
        grads = jax.grad(lambda p: loss_of(p, masked, errors[masked]))(params)
        change, state = tx.update(grads, state)
        return (optax.apply_updates(params, change), state), None

    params = {"logits": jnp.zeros(n), "value": jnp.zeros(())}
    keys = jax.random.split(jax.random.key(0), steps)
    run = jax.jit(lambda: jax.lax.scan(body, (params, tx.init(params)), keys)[0][0])
    return hard, errors, log_p(run()["logits"])


def tats_loss(c3):
    def loss(params, masked, error):
        logp = jnp.tile(log_p(params["logits"]), (masked.shape[0], 1))
        value = jnp.full(masked.shape[0], params["value"])
        advantage = error - jax.lax.stop_gradient(value)[:, None]
        actor = pl.ppo_token_loss(logp, logp, masked, advantage, 0.2)
        return (actor + pl.value_loss(value, error.mean(-1), value) - c3 * pl.entropy(logp)).mean()

    return loss


def test_fixed_point_is_log_linear_in_the_error():
    _, errors, logp = settle(tats_loss(c3=1.0))
    slope, _ = np.polyfit(errors, logp, 1)
    assert np.corrcoef(errors, logp)[0, 1] > 0.95
    assert 0.5 < slope < 1.2


def test_without_entropy_the_policy_collapses_onto_the_hard_tokens():
    hard, _, logp = settle(tats_loss(c3=0.0))
    assert jnp.exp(logp)[hard].sum() > 0.95


def test_reinforce_settles_at_p_hidden_times_error():
    """Hard to easy 2.83 in the spec's toy (3.33 times the ratio of P(hidden))."""

    def loss(params, masked, error):
        logp = jnp.tile(log_p(params["logits"]), (masked.shape[0], 1))
        return pl.reinforce_loss(logp, masked, error).mean()

    hard, _, logp = settle(loss)
    ratio = jnp.exp(logp)[hard].mean() / jnp.exp(logp)[~hard].mean()
    assert 2.6 < ratio < 3.05
