"""The table of attention forms: what it measures is attention, and wrong input is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxvid.models.attention import attention, grouped_attention
from jaxvid.tools.bench_attention import main, make_step, shapes_of
from jaxvid.tools.bench_trajectory import fill


@pytest.mark.parametrize("groups", [0, 4])
def test_a_step_is_attention_and_its_gradient(groups):
    shapes = shapes_of(2, 12, 8, groups, "float32", jax.devices()[0])
    args = fill([jax.ShapeDtypeStruct(x.shape, x.dtype) for x in shapes])
    q, k, v = (x.reshape(2, 12, 2, 4) for x in args[:3])

    def attend(q, k, v):
        if not groups:
            return attention(q, k, v, "xla")
        k, v = (x.reshape(2, 4, 3, 2, 4) for x in (k, v))
        return grouped_attention(q, k, v, "xla")

    out, pull = jax.vjp(attend, q, k, v)
    expected = (out, *pull(args[3].reshape(out.shape)))
    for a, b in zip(make_step("xla", 2, groups)(*args), expected):
        np.testing.assert_array_equal(a, jnp.reshape(b, a.shape))


def test_table(capsys):
    main(["--tokens", "16", "32", "--heads", "2", "--depth", "8", "--forms", "xla", "cudnn",
          "--rounds", "1"])  # fmt: skip
    shown = capsys.readouterr().out
    rows = [line.split(" | ") for line in shown.splitlines() if line.startswith(("| 16", "| 32"))]
    assert [row[:2] for row in rows] == [["| 16", "`xla`"], ["| 32", "`xla`"]]
    assert all(float(row[-1].rstrip(" |")) >= 0 for row in rows)
    assert "cudnn left out: " in shown


def test_tokens_must_divide_into_groups(capsys):
    with pytest.raises(SystemExit):
        main(["--tokens", "15", "--groups", "2"])
    assert "--tokens" in capsys.readouterr().err
