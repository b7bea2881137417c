"""FLOP counts: by hand, and against the compiler's count of an unrolled program."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from jaxvid.core.banner import step_flops
from jaxvid.core.flops import count_flops
from jaxvid.core.hardware import peak_flops
from jaxvid.core.run import Run
from tests.runs import smoke


def test_product_and_convolution_by_hand():
    assert count_flops(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 4))) == 2 * 2 * 3 * 4
    image, kernel = jnp.ones((1, 8, 8, 3)), jnp.ones((2, 2, 3, 5))

    def conv(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert count_flops(conv, image, kernel) == 2 * (4 * 4 * 5) * (2 * 2 * 3)


def test_gradient_of_a_strided_convolution_costs_twice_its_forward_pass():
    image, kernel = jnp.ones((1, 33, 33, 3)), jnp.ones((3, 3, 3, 5))

    def conv(x, k):
        return jax.lax.conv_general_dilated(
            x, k, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ).sum()

    both = count_flops(jax.grad(conv, (0, 1)), image, kernel)
    assert both == pytest.approx(3 * count_flops(conv, image, kernel), rel=0.05)


def test_scan_counts_every_turn_and_its_gradient():
    w = jnp.ones((4, 4))

    def forward(w, x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, None, length=5)[0].sum()

    one = 2 * 4 * 4 * 4
    assert count_flops(forward, w, w) == 5 * one
    assert count_flops(jax.grad(forward), w, w) == 15 * one
    assert count_flops(jax.grad(jax.checkpoint(forward)), w, w) == 20 * one


@pytest.mark.parametrize("depth", [1, 3])
def test_agrees_with_the_compiler(depth):
    w = jnp.ones((depth, 64, 64))

    def forward(w, x):
        for layer in w:
            x = jnp.maximum(x @ layer, 0.1)
        return (x**2).sum()

    both = jax.value_and_grad(forward)
    cost = jax.jit(both).lower(w, jnp.ones((32, 64))).compile().cost_analysis()
    counted = count_flops(both, w, jnp.ones((32, 64)))
    assert counted == pytest.approx(cost["flops"], rel=0.05)


def test_a_whole_step_agrees_with_the_compiler():
    """Of unrolled layers; of a loop the compiler counts one turn, this package all of them."""
    sizes = {"width": 768, "heads": 12, "depth": 3, "attention": "xla"}  # no loop over blocks
    sizes = {f"method__encoder__{name}": value for name, value in sizes.items()}
    sizes |= {"method__decoder_width": 384, "method__decoder_heads": 6, "method__decoder_depth": 2}
    counts = {}
    for scan in (False, True):
        config = smoke("videomae_ssv2", mesh__data=1, data__size=64, method__scan=scan, **sizes)
        run = Run(config, jax.devices()[:1])
        lowered = run.traced_step(run.variant(run.info.total_steps - 1)).lower()
        counts[scan] = step_flops(run), lowered.cost_analysis()["flops"]
    assert counts[False][0] == counts[True][0]
    assert counts[False][0] == pytest.approx(counts[False][1], rel=0.05)
    assert counts[True][1] < 0.6 * counts[True][0]


@pytest.mark.parametrize(
    "kind, peak",
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", None),
        ("NVIDIA RTX A1000", None),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("cpu", None),
    ],
)
def test_peak_of_a_device(kind, peak):
    assert peak_flops(SimpleNamespace(device_kind=kind)) == peak
