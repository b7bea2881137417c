"""The text tower against the transformers library."""

import jax
import numpy as np

from jaxvid.interop.text import mpnet_params
from jaxvid.models.text import relative_bucket, text_features, text_tokens
from tests.golden_fixture import Fixture


def mpnet(fixture: Fixture) -> None:
    """Buckets of the relative positions and last hidden states of sentences of unequal length."""
    params, config = mpnet_params(
        fixture.group("param"), fixture.config["layer_norm_eps"], fixture.name
    )
    ids = fixture.arrays["in/ids"]
    fixture.check("out/bucket", relative_bucket(fixture.arrays["in/distance"], config.buckets))
    tokens = np.asarray(jax.jit(lambda p, ids: text_tokens(p, ids, config))(params, ids))
    fixture.check("out/hidden", tokens[1:2, :30])
    fixture.check("out/hidden_last", tokens[0, -40:])
    fixture.check("out/hidden_first", tokens[:, 0])
    # Padding plays no part.
    short = jax.jit(lambda p, ids: text_features(p, ids, config))(params, ids[1:, :30])
    np.testing.assert_allclose(short, tokens[1:, 0], atol=1e-4)


ADAPTERS = {"mpnet": mpnet}
