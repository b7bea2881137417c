"""PPO and REINFORCE for samplers: identities, directions, the toy fixed point of the spec."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxvid.losses import policy as pl
from jaxvid.masking.sampler import sample_visible

B, N, NM = 2, 8, 6


@jax.jit
def make_case(seed=0):
    ks = jax.random.split(jax.random.key(seed), 5)
    logits = jax.random.normal(ks[0], (B, N))
    masked = sample_visible(jnp.zeros((B, N)), jax.random.split(ks[1], B), N - NM).masked
    error = jax.random.uniform(ks[2], (B, NM))
    return logits, masked, error, jax.random.uniform(ks[3], (B,))


@jax.jit
def log_p(logits):
    return jax.nn.log_softmax(logits)


def test_unmoved_policy_has_ratio_one_and_the_actor_critic_gradient():
    logits, masked, error, value = jax.device_get(make_case())
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

    grads = (jax.jit(jax.grad(f))((logits, value)) for f in (ppo, actor_critic))
    for a, b in zip(*grads):
        np.testing.assert_allclose(a, b, atol=1e-6)
    logp = log_p(logits)
    metrics = jax.jit(pl.policy_metrics)(logp, logp, masked, value, error.mean(-1), 0.2)
    assert metrics["clip_fraction"] == 0 and metrics["kl"] == 0
    ratio = np.asarray(jax.jit(pl.importance_ratio)(logp, logp))
    assert np.abs(ratio - 1).max() < 1e-6


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [(1.3, 1.0, 0.0), (1.1, 2.0, 2.0), (0.5, 1.0, 1.0), (0.7, -1.0, 0.0), (1.3, -2.0, -2.0)],
)
def test_clipping_stops_the_gradient_on_the_winning_side(ratio, advantage, slope):
    grad = jax.jit(jax.grad(pl.clipped_objective))(ratio, advantage, 0.2)
    assert grad == pytest.approx(slope)


def test_tokens_beyond_the_clip_do_not_move():
    logits, masked, error, _ = jax.device_get(make_case())
    logp = log_p(logits)
    old = np.array(logp)
    old[0, masked[0, 2]] -= 1.0  # ratio e > 1.2
    advantage = np.abs(error) + 0.1

    def loss(logp, keep):
        return (pl.ppo_token_loss(logp, old, masked, advantage * keep, 0.2)).sum()

    grad = np.asarray(jax.jit(jax.grad(loss))(logp, np.ones_like(error)))
    assert grad[0, masked[0, 2]] == 0
    assert (np.take_along_axis(grad, masked, 1) != 0).sum() == B * NM - 1


def test_no_advantage_and_no_other_terms_give_no_gradient():
    logits, masked, error, _ = jax.device_get(make_case())
    old = log_p(logits * 0.9)
    for loss in (pl.ppo_token_loss, pl.ppo_clip_mean_loss):
        zero = np.zeros_like(error if loss is pl.ppo_token_loss else error[:, 0])
        total = lambda x, f=loss, a=zero: f(log_p(x), old, masked, a, 0.2).sum()  # noqa: E731
        assert not np.asarray(jax.jit(jax.grad(total))(logits)).any()


def test_entropy_of_the_uniform_policy_is_maximal():
    uniform, one = np.zeros((1, 1568), np.float32), np.ones(1, np.float32)
    entropy = jax.value_and_grad(lambda x: pl.entropy(log_p(x))[0])
    value, grad = jax.jit(entropy)(uniform)
    assert value == pytest.approx(7.3576, abs=1e-4)
    assert np.abs(grad).max() < 1e-8
    logp = log_p(uniform)
    metrics = jax.jit(pl.policy_metrics)(logp, logp, np.array([[0]]), one, one, 0.2)
    assert metrics["entropy"] == pytest.approx(1.0, abs=1e-6)


def test_one_step_from_uniform_raises_the_hardest_masked_token_most():
    error = np.array([[0.1, 0.9, 0.5, 0.3, 0.6, 0.2]], np.float32)
    masked, visible = np.arange(6)[None], np.array([6, 7])
    uniform = np.zeros((1, N), np.float32)
    value = error.mean(-1)

    def loss(logits):
        logp = log_p(logits)
        return (
            pl.ppo_token_loss(logp, log_p(uniform), masked, error - value[:, None], 0.2).sum()
            - pl.entropy(logp).sum()
        )

    logits = -10.0 * np.asarray(jax.jit(jax.grad(loss))(uniform))
    move = np.asarray(log_p(logits))[0] - log_p(uniform)[0]
    assert move.argmax() == 1 and move[1] > 0 and move[0] < 0
    assert move[:6].argsort().tolist() == error[0].argsort().tolist()
    # The logits of visible tokens aren't touched: they only follow the normalisation.
    np.testing.assert_allclose(logits[0, visible], 0.0, atol=1e-6)


def test_nothing_flows_to_what_was_recorded():
    logits, masked, error, value = jax.device_get(make_case())
    old = log_p(logits * 0.9)

    def loss(old, error, value_old):
        logp = log_p(logits)
        actor = pl.ppo_token_loss(logp, old, masked, error - value_old[:, None], 0.2)
        critic = pl.value_loss(value, error.mean(-1), value_old, clip=0.1)
        return (actor + critic + pl.reinforce_loss(logp, masked, error)).sum()

    for grad in jax.jit(jax.grad(loss, (0, 1, 2)))(old, error, value):
        assert not np.asarray(grad).any()


def test_value_clipping_by_hand():
    target, old = np.array([0.5], np.float32), np.array([1.0], np.float32)
    plain = jax.jit(lambda v: pl.value_loss(v, target, old)[0])
    clipped = jax.jit(jax.value_and_grad(lambda v: pl.value_loss(v, target, old, clip=0.1)[0]))
    assert plain(np.float32([2.0])) == pytest.approx(2.25)
    # Clipped prediction 1.1 is nearer to the target, so the larger, unclipped error counts.
    assert clipped(np.float32([2.0]))[0] == pytest.approx(2.25)
    # Now the unclipped prediction is nearer: the clipped one counts, without gradient.
    value, grad = clipped(np.float32([0.5]))
    assert value == pytest.approx(0.16)
    assert np.asarray(grad)[0] == 0


def test_clip_mean_uses_the_geometric_mean_ratio():
    logits, masked, _, _ = jax.device_get(make_case())
    logp, old = np.asarray(log_p(logits)), np.asarray(log_p(logits * 0.95))
    gap = np.take_along_axis(logp, masked, 1).mean(-1) - np.take_along_axis(old, masked, 1).mean(-1)
    advantage = np.array([0.5, -0.5], np.float32)
    expected = -np.minimum(np.exp(gap) * advantage, np.clip(np.exp(gap), 0.8, 1.2) * advantage)
    ours = jax.jit(pl.ppo_clip_mean_loss)(logp, old, masked, advantage, 0.2)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_resampled_compares_masks_place_by_place():
    logp = np.log(np.float32([[0.1, 0.2, 0.3, 0.4]]))
    old = np.log(np.float32([[0.25] * 4]))
    masked, redrawn = np.array([[0, 1]]), np.array([[1, 2]])
    advantage = np.ones((1, 2), np.float32)
    ours = jax.jit(pl.ppo_resampled_loss)(logp, old, masked, redrawn, advantage, 10.0)
    assert np.asarray(ours)[0] == pytest.approx(-(0.2 / 0.25 + 0.3 / 0.25) / 2)


def test_extreme_logits_stay_finite_in_bfloat16():
    now = np.tile([50, -50], (B, N // 2)).astype(jnp.bfloat16)
    masked = make_case()[1]

    def loss(now):
        logp = log_p(now.astype(jnp.float32))
        old = log_p(-now.astype(jnp.float32))
        out = pl.ppo_token_loss(logp, old, masked, -jnp.ones((B, NM)), 0.2)
        return (out - pl.entropy(logp) + pl.reinforce_loss(logp, masked, jnp.ones((B, NM)))).sum()

    value, grad = jax.device_get(jax.jit(jax.value_and_grad(loss))(now))
    assert np.isfinite(value) and np.isfinite(grad).all()
    logp = np.asarray(log_p(now.astype(np.float32)))
    ratio = jax.jit(pl.importance_ratio)(logp, -logp)
    assert np.isfinite(logp).all() and np.isfinite(ratio).all()


def test_reinforce_bounds_probabilities_as_the_reference_does():
    logp = np.log(np.float32([[1e-9, 1.0 - 1e-9]]))
    assert np.asarray(jax.jit(pl.bounded)(logp))[0, 0] == pytest.approx(np.log(2.0**-23))
    loss = lambda x: pl.reinforce_loss(x, np.array([[0, 1]]), jnp.ones((1, 2))).sum()  # noqa: E731
    grad = np.asarray(jax.jit(jax.grad(loss))(np.float32([[-20.0, -0.5]])))
    assert grad[0, 0] == 0 and grad[0, 1] == pytest.approx(-0.5)


def test_reinforce_raises_the_hardest_hidden_token_and_rests_at_p_equal_to_p_hidden():
    masked, error = np.arange(6)[None], np.float32([[0.1, 0.9, 0.5, 0.3, 0.6, 0.2]])
    loss = lambda x, e: pl.reinforce_loss(log_p(x), masked, e).sum()  # noqa: E731
    step = -np.asarray(jax.jit(jax.grad(loss))(np.zeros((1, N), np.float32), error))[0]
    assert step[:6].argsort().tolist() == error[0].argsort().tolist() and step.argmax() == 1
    # Equal errors: expected gradient over masks with P(hidden) = h is zero at p = h / sum(h) only.
    h = np.float32([0.9, 0.8, 0.7, 0.6])
    expected = jax.jit(jax.grad(lambda x: -(h * log_p(x)).sum()))
    assert np.abs(expected(np.log(h))).max() < 1e-6
    assert np.abs(expected(np.zeros(4, np.float32))).max() > 0.05


def settle(loss_of, steps=3000, n=196, batch=8, rate=0.01):
    """Logits (n,) after training on frozen errors: 1/8 of the tokens 1.0, the rest 0.3."""
    hard = np.arange(n) % 8 == 0
    errors = jnp.asarray(np.where(hard, 1.0, 0.3), jnp.float32)
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
    return hard, errors, np.asarray(log_p(run()["logits"]))


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
    assert np.exp(logp)[hard].sum() > 0.95


def test_reinforce_settles_at_p_hidden_times_error():
    """Hard to easy 2.83 in the spec's toy (3.33 times the ratio of P(hidden))."""

    def loss(params, masked, error):
        logp = jnp.tile(log_p(params["logits"]), (masked.shape[0], 1))
        return pl.reinforce_loss(logp, masked, error).mean()

    hard, _, logp = settle(loss)
    ratio = np.exp(logp)[hard].mean() / np.exp(logp)[~hard].mean()
    assert 2.6 < ratio < 3.05
