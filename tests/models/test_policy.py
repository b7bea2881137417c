"""Networks of the samplers: counts, the shortened read-out, gradients that must be nought."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jaxvid.core import trees
from jaxvid.core.flops import count_flops
from jaxvid.models.policy import AdaptiveSampler, PolicyBlock, TrajectoryPolicy

GRID, WIDTH, B = (2, 3, 2), 8, 2
N = 12


def make_policy(**overrides):
    fields = {"kind": "ta", "heads": 2, "frames": GRID[0]} | overrides
    return PolicyBlock(WIDTH, **fields)


@functools.partial(jax.jit, static_argnums=(0, 2))
def make_params(net, x, *grid):
    """No zeros, so that nothing is equal by accident."""
    flat, unravel = ravel_pytree(net.init(jax.random.key(0), x, *grid)["params"])
    return unravel(flat + 0.3 * jax.random.normal(jax.random.key(1), flat.shape))


def make_case(seed=3, **net_fields):
    block = net_fields.pop("block", make_policy())
    net = TrajectoryPolicy(block, **net_fields)
    tokens = jax.random.normal(jax.random.key(seed), (B, N, WIDTH))
    return net, make_params(net, tokens, GRID), tokens


def run(net, params, *inputs):
    return jax.jit(lambda x, *keys: net.apply({"params": params}, x, GRID, *keys))(*inputs)


def test_parameter_counts_of_the_paper_sizes():
    grid, width = (8, 14, 14), 768
    tokens = jax.ShapeDtypeStruct((1, 1568, width), jnp.float32)

    def count(net):
        shapes = jax.eval_shape(lambda key, x: net.init(key, x, grid), jax.random.key(0), tokens)
        return {k: trees.count(v) for k, v in shapes["params"].items()}

    tats = count(TrajectoryPolicy(PolicyBlock(width, "ta", 12, 8), head_bias=True))
    assert tats == {"blocks": 8_859_648, "head": 769, "value": 1_230_881}
    assert sum(tats.values()) == 10_091_298
    lean = count(TrajectoryPolicy(PolicyBlock(width, "ta", 12, 8)))
    assert sum(lean.values()) == 10_091_297
    ada = count(AdaptiveSampler())
    assert ada == {"pos_embed": 1_204_224, "block": 7_085_568, "head": 769}
    assert sum(ada.values()) == 8_290_561


def test_cost_of_the_policy_at_full_size():
    """ViT-B: 28.4 GFLOP forward per clip; as written in the equations it would be 61."""
    grid, width = (8, 14, 14), 768
    net = TrajectoryPolicy(PolicyBlock(width, "ta", 12, 8))
    x = jax.ShapeDtypeStruct((1, 1568, width), jnp.float32)
    params = jax.eval_shape(lambda k, x: net.init(k, x, grid), jax.random.key(0), x)
    assert count_flops(lambda p, x: net.apply(p, x, grid), params, x) < 28.5e9


@pytest.mark.parametrize("kind", ["ta", "mha"])
def test_read_is_the_inner_product_with_the_blocks_output(kind):
    block = make_policy(kind=kind)
    x = jax.random.normal(jax.random.key(1), (B, N, WIDTH))
    params = {"params": make_params(block, x)}
    vector = jax.random.normal(jax.random.key(2), (WIDTH,))

    @jax.jit
    def both():
        full = block.apply(params, x) @ vector
        short = block.apply(params, x, vector, method="read")
        return jax.nn.log_softmax(short), jax.nn.log_softmax(full)

    np.testing.assert_allclose(*both(), atol=1e-5, rtol=1e-5)


def test_shifts_of_all_logits_get_no_gradient():
    net, params, tokens = make_case(depth=2, head_bias=True)
    weight = jax.random.normal(jax.random.key(9), (B, N))
    loss = lambda p: (net.apply({"params": p}, tokens, GRID).logp * weight).sum()  # noqa: E731
    grads = jax.device_get(jax.jit(jax.grad(loss))(params))
    last = grads["blocks"]["mlp"]["fc2"]["bias"]
    assert not grads["head"]["bias"].any() and not last[1].any() and last[0].any()
    assert grads["blocks"]["mlp"]["fc2"]["kernel"].any()


def test_policy_is_a_distribution_and_the_critic_sees_means_over_features():
    net, params, tokens = make_case(temperature=0.5, learned_pos=True)
    policy = run(net, params, tokens)
    np.testing.assert_allclose(np.exp(policy.logp).sum(-1), 1.0, atol=1e-6)
    assert policy.value.shape == (B,)
    # Moving mass between features of one token leaves its mean, hence the value, as it is.
    moved = np.array(tokens)
    moved[0, 4, [0, 5]] += [1.0, -1.0]
    other = run(net, params, moved)
    np.testing.assert_allclose(other.value, policy.value, atol=1e-6)
    assert np.abs(np.asarray(other.logp) - policy.logp).max() > 1e-3


def test_temperature_divides_the_logits():
    net, params, tokens = make_case()
    cold = run(net.clone(temperature=0.5), params, tokens).logp
    warm = run(net, params, tokens).logp
    np.testing.assert_allclose(cold, jax.nn.log_softmax(2 * warm), atol=1e-5)


def test_recomputing_and_holding_all_weights_change_nothing():
    net, params, tokens = make_case(depth=2)
    other = TrajectoryPolicy(make_policy(impl="auto"), depth=2, remat="full")

    def value_and_grad(net):
        loss = lambda p: (net.apply({"params": p}, tokens, GRID).logp[:, :3]).sum()  # noqa: E731
        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params))

    for a, b in zip(value_and_grad(net), value_and_grad(other)):
        np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)


def test_path_of_the_policy_is_that_of_its_first_block():
    net, params, tokens = make_case(depth=2, learned_pos=True)
    path = jax.jit(functools.partial(net.apply, method="path"))(
        {"params": params}, tokens, jnp.array([0, 7])
    )
    assert path.shape == (B, GRID[0], GRID[1] * GRID[2])
    np.testing.assert_allclose(path.sum(-1), 1.0, atol=1e-6)


def test_dropout_of_adamae_needs_keys_and_is_drawn_per_clip():
    net = AdaptiveSampler(heads=2, drop=0.5)
    tokens = jnp.tile(jax.random.normal(jax.random.key(3), (1, N, WIDTH)), (2, 1, 1))
    params = make_params(net, tokens, GRID)
    still = run(net, params, tokens)
    np.testing.assert_array_equal(still[0], still[1])
    keys = jax.random.split(jax.random.key(1), 2)
    dropped = np.asarray(run(net, params, tokens, keys))
    assert np.abs(dropped[0] - dropped[1]).max() > 1e-3
    swapped = run(net, params, tokens, keys[::-1])  # of another size sums might run otherwise
    np.testing.assert_allclose(swapped, dropped[::-1], atol=1e-6)


@pytest.mark.parametrize("fields", [{}, {"mlp_ratio": 0.0}, {"mlp_ratio": 1.0}], ids=str)
def test_a_narrower_sampler_reads_mapped_tokens(fields):
    """The same as the sampler of that width on tokens mapped by ``embed``, bar the critic."""
    block = PolicyBlock(4, "ta", 2, GRID[0], **fields)
    net, params, tokens = make_case(block=block)
    assert ("mlp" in params["blocks"]) == (fields.get("mlp_ratio") != 0)
    mapped = tokens @ params["embed"]["kernel"] + params["embed"]["bias"]
    inner = {k: v for k, v in params.items() if k != "embed"}
    ours = run(net, params, tokens)
    np.testing.assert_allclose(ours.logp, run(net, inner, mapped).logp, atol=1e-5)
    np.testing.assert_allclose(np.exp(ours.logp).sum(-1), 1.0, atol=1e-6)
    assert np.abs(np.asarray(ours.logp) + np.log(N)).max() > 1e-2
    path = net.apply({"params": params}, tokens, jnp.array([0, 7]), method="path")
    other = net.apply({"params": inner}, mapped, jnp.array([0, 7]), method="path")
    np.testing.assert_allclose(path, other, atol=1e-6)
