"""Trajectory attention: the economical form against the direct one, and what must hold of both."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.core.flops import count_flops
from jaxvid.models import trajectory
from jaxvid.models.trajectory import TrajectoryAttention

B, F, P, HEADS, DEPTH = 2, 3, 5, 2, 4
WIDTH = HEADS * DEPTH
project_qkv = jax.jit(lambda weights, x: trajectory.project_qkv(weights, x, HEADS))
select_landmarks = jax.jit(trajectory.select_landmarks, static_argnums=2)


def make_weights(seed=0, width=WIDTH):
    rng = np.random.default_rng(seed)
    sizes = {"qkv": 3 * width, "proj_q": width, "proj_kv": 2 * width, "proj": width}
    return {
        name: {
            "kernel": jnp.asarray(rng.normal(size=(width, n)) / width**0.5, jnp.float32),
            "bias": jnp.asarray(rng.normal(size=n), jnp.float32),
        }
        for name, n in sizes.items()
    }


def make_tokens(seed=1, frames=F, width=WIDTH):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(B, frames * P, width)), jnp.float32)


def direct(weights, x, frames=F, heads=HEADS, project_values=True):
    """The definition, written with a projection of every trajectory token."""
    b, n, width = x.shape
    split = lambda y: y.reshape(*y.shape[:-1], heads, width // heads)  # noqa: E731
    q, k, v = (split(y) for y in jnp.split(trajectory.dense(weights["qkv"], x), 3, -1))
    k, v = (y.reshape(b, frames, -1, heads, width // heads) for y in (k, v))
    scale = (width // heads) ** -0.5
    over_space = jax.nn.softmax(jnp.einsum("bnhd,bfphd->bhnfp", q, k) * scale)
    tokens = jnp.einsum("bhnfp,bfphd->bnfhd", over_space, v).reshape(b, n, frames, width)
    own = jnp.stack([tokens[:, i, i // (n // frames)] for i in range(n)], axis=1)
    q2 = split(trajectory.dense(weights["proj_q"], own))
    k2, v2 = (split(y) for y in jnp.split(trajectory.dense(weights["proj_kv"], tokens), 2, -1))
    if not project_values:
        v2 = split(tokens)
    over_time = jax.nn.softmax(jnp.einsum("bnhd,bnfhd->bhnf", q2, k2) * scale)
    out = jnp.einsum("bhnf,bnfhd->bnhd", over_time, v2).reshape(b, n, width)
    return trajectory.dense(weights["proj"], out)


@pytest.mark.parametrize("project_values", [True, False])
@pytest.mark.parametrize(
    "impl, cuda", [*zip(("auto", "xla", "chunked"), [False] * 3), ("auto", True)]
)
def test_all_forms_equal_the_direct_one(project_values, impl, cuda, monkeypatch):
    """Values and all gradients to 2e-5."""
    monkeypatch.setattr(trajectory, "for_cuda", lambda x: cuda)
    module = TrajectoryAttention(HEADS, F, impl=impl, project_values=project_values)
    weights, x, probe = make_weights(), make_tokens(), make_tokens(2)

    def grads(fn):
        return jax.jit(jax.value_and_grad(lambda w, x: (fn(w, x) * probe).sum(), (0, 1)))

    ours = grads(lambda w, x: module.apply({"params": w}, x))(weights, x)
    reference = grads(lambda w, x: direct(w, x, project_values=project_values))(weights, x)
    for ours_leaf, leaf in zip(jax.tree.leaves(ours), jax.tree.leaves(reference)):
        np.testing.assert_allclose(ours_leaf, leaf, atol=2e-5, rtol=2e-5)


def test_key_biases_have_no_effect_and_no_gradient():
    module, weights, x = TrajectoryAttention(HEADS, F), make_weights(), make_tokens()
    loss = lambda w: (module.apply({"params": w}, x) ** 2).sum()  # noqa: E731
    grads = jax.device_get(jax.jit(jax.grad(loss))(weights))
    assert not grads["qkv"]["bias"][WIDTH : 2 * WIDTH].any()
    assert not grads["proj_kv"]["bias"][:WIDTH].any()
    assert grads["qkv"]["bias"][:WIDTH].any() and grads["proj_kv"]["bias"][WIDTH:].any()


def test_one_frame_is_ordinary_attention_over_space():
    weights, x = make_weights(), make_tokens(frames=1)

    @jax.jit
    def weights_over_time(weights, x):
        tokens = trajectory.spatial_step(*trajectory.project_qkv(weights, x, HEADS), 1)
        return trajectory.temporal_step(tokens, tokens[:, :, 0], weights, HEADS)[1]

    np.testing.assert_array_equal(weights_over_time(weights, x), 1)


def test_spatial_weights_sum_to_one_in_every_frame():

    @jax.jit
    def weights(x):
        q, k, _ = trajectory.project_qkv(make_weights(), x, HEADS)
        order = trajectory.select_landmarks(q, jnp.zeros((B, HEADS), jnp.int32), 4)
        landmarks = trajectory.take_landmarks(q, order)
        near = trajectory.landmark_weights(q, landmarks)
        found = trajectory.spatial_weights(landmarks, k, F)
        return trajectory.spatial_weights(q, k, F), jnp.einsum("bhnl,bhlfp->bhnfp", near, found)

    exact, both = map(np.asarray, weights(5 * np.asarray(make_tokens())))
    assert exact.shape == (B, HEADS, F * P, F, P)
    np.testing.assert_allclose(exact.sum(-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(both.sum(-1), 1.0, atol=1e-6)


def test_order_of_the_other_frames_does_not_matter():
    weights, x = make_weights(), make_tokens()
    q, k, v = project_qkv(weights, x)

    @jax.jit
    def run(order):
        move = lambda y: y.reshape(B, F, P, HEADS, DEPTH)[:, order].reshape(y.shape)  # noqa: E731
        tokens = trajectory.spatial_step(q[:, :P], move(k), move(v), F)
        return trajectory.temporal_step(tokens, tokens[:, :, 0], weights, HEADS)[0]

    output = lambda order: np.asarray(run(np.array(order)))  # noqa: E731
    np.testing.assert_allclose(output([0, 2, 1]), output([0, 1, 2]), atol=1e-6)
    assert np.abs(output([1, 0, 2]) - output([0, 1, 2])).max() > 1e-3


def test_landmarks_are_the_greedy_choice():
    q = np.asarray(make_tokens(3)).reshape(B, F * P, HEADS, DEPTH)
    first = np.array([[0, 7], [14, 3]])
    chosen = np.asarray(select_landmarks(q, first, 6))
    unit = (q / np.linalg.norm(q, axis=-1, keepdims=True)).transpose(0, 2, 1, 3)
    for b in range(B):
        for h in range(HEADS):
            order = [int(first[b, h])]
            while len(order) < 6:
                cosine = np.abs(unit[b, h] @ unit[b, h][order].T).max(axis=1)
                cosine[order] = np.inf
                order.append(int(cosine.argmin()))
            assert chosen[b, h].tolist() == order


def test_same_key_same_landmarks_and_no_gradient_through_them():
    module = TrajectoryAttention(HEADS, F, landmarks=4)
    weights, x = make_weights(), make_tokens()
    run = jax.jit(lambda keys: module.apply({"params": weights}, x, keys))
    apply = lambda keys: np.asarray(run(keys))  # noqa: E731
    keys = jax.random.split(jax.random.key(0), B)
    np.testing.assert_array_equal(apply(keys), apply(keys))
    assert np.abs(apply(keys) - apply(jax.random.split(jax.random.key(5), B))).max() > 1e-4
    q = np.asarray(make_tokens(3)).reshape(B, F * P, HEADS, DEPTH)
    order = select_landmarks(q, np.zeros((B, HEADS), np.int32), 3)
    grad = jax.jit(jax.grad(lambda q: trajectory.take_landmarks(q, order).sum()))(q)
    assert not np.asarray(grad).any()


@pytest.mark.parametrize("landmarks", [0, 4])
def test_path_is_the_mean_spatial_attention_of_one_token(landmarks):
    module = TrajectoryAttention(HEADS, F, landmarks=landmarks)
    weights, x = make_weights(), make_tokens()
    keys = jax.random.split(jax.random.key(0), B)
    query = np.array([3, 11])
    apply = jax.jit(functools.partial(module.apply, method="path"))
    path = np.asarray(apply({"params": weights}, x, query, keys))
    assert path.shape == (B, F, P)
    np.testing.assert_allclose(path.sum(-1), 1.0, atol=1e-6)
    if not landmarks:
        q, k, _ = project_qkv(weights, x)
        every = np.asarray(jax.jit(trajectory.spatial_weights, static_argnums=2)(q, k, F)).mean(1)
        np.testing.assert_allclose(path, every[np.arange(B), query], atol=1e-6)


@pytest.mark.parametrize("landmarks", [0, 4])
def test_bfloat16_keeps_its_statistics_in_f32(landmarks):
    """All forms lie within the rounding of their inputs (8 bits) of the f32 result."""
    weights, x = make_weights(), make_tokens()
    first = np.zeros((B, HEADS), np.int32)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(dtype, impl):
        module = TrajectoryAttention(HEADS, F, landmarks, impl, dtype=dtype)
        return jax.value_and_grad(
            lambda w: (module.apply({"params": w}, x, None, first).astype(jnp.float32) ** 2).sum()
        )(weights)

    exact = run("float32", "xla")
    for impl in ("auto", "xla", "chunked"):
        for ours, leaf in zip(jax.tree.leaves(run("bfloat16", impl)), jax.tree.leaves(exact)):
            np.testing.assert_allclose(ours, leaf, atol=0.03 * max(np.abs(leaf).max(), 1.0))


def test_cost_at_full_size_is_less_than_half_of_the_direct_form():
    """ViT-B, 16 frames of 224: 21.0 instead of 46.4 GFLOP per clip (counted, not timed)."""
    width, heads, frames = 768, 12, 8
    x = jax.ShapeDtypeStruct((1, frames * 196, width), jnp.float32)
    weights = jax.eval_shape(functools.partial(make_weights, width=width))
    ours = count_flops(
        lambda w, x: TrajectoryAttention(heads, frames).apply({"params": w}, x), weights, x
    )
    reference = count_flops(lambda w, x: direct(w, x, frames, heads), weights, x)
    assert ours < 21.1e9 < 46.4e9 < reference
