"""Networks that predict the feature maps of coming blocks of a clip, and their classifier."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxvid.core.config import check
from jaxvid.models.backbone_config import BackboneConfig
from jaxvid.models.backbones import make_backbone
from jaxvid.models.batchnorm import BatchNorm, widen
from jaxvid.models.layers import dropout, fold_keys
from jaxvid.models.recurrent import ConvGRU, dropout_masks


class Direction(NamedTuple):
    """Predictions made by reading a clip in one direction; steps in the order of reading.

    Attributes:
      predicted, target: (B, q, h, w, D) f32.
      context: (B, h, w, D), state after the last block that was seen.
      slots: (B, q, h, w, k) logits over the memory, or None without one.
    """

    predicted: Array
    target: Array
    context: Array
    slots: Array | None


class Predictor(nn.Module):
    """Convolution 1x1, ReLU, convolution 1x1 to ``width`` channels (0 = those of the input)."""

    width: int
    gain: float
    dtype: str = "float32"

    @nn.compact
    def __call__(self, state: Array) -> Array:
        """(B, h, w, D) to (B, h, w, width) f32."""

        def conv(width, name):
            init = nn.initializers.orthogonal(self.gain)
            return nn.Conv(width, (1, 1), kernel_init=init, dtype=self.dtype, name=name)

        width = state.shape[-1]
        hidden = nn.relu(conv(width, "hidden")(state))
        return widen(conv(self.width or width, "out")(hidden))


class Memory(nn.Module):
    """k learnable vectors ``slots`` (k, D), read as a convex combination."""

    @nn.compact
    def __call__(self, logits: Array, width: int) -> Array:
        """``softmax(logits) @ slots``: (..., k) to (..., width)."""
        slots = self.param("slots", nn.initializers.normal(1.0), (logits.shape[-1], width))
        return jax.nn.softmax(logits) @ slots


class PredictiveNet(nn.Module):
    """Encoder of blocks, recurrent aggregator and predictor (dense predictive coding).

    With maps z_n of the blocks, signed, and state c::

        c = gru(relu(z_1), ..., relu(z_{N-q}))
        p_i = predictor(c);  c = gru(c, relu(p_i))       i = 1 ... q

    Attributes:
      config: of the encoder, whose batch consists of the B N blocks (example-major).
      frames: per block.
      predict: q.
      slots: k; with a memory p = softmax(predictor(c)) @ slots. 0 = none.
      bidirectional: also read the blocks backward, with an aggregator of its own.
      drop: dropout of the aggregator's state.
      gain: of the orthogonal initial weights of aggregator and predictor.
    """

    config: BackboneConfig
    frames: int
    predict: int
    slots: int = 0
    bidirectional: bool = False
    drop: float = 0.1
    gain: float = 1.0
    dtype: str = "float32"

    def setup(self):
        self.encoder = make_backbone(self.config, self.dtype)
        self.aggregator = ConvGRU(gain=self.gain, dtype=self.dtype)
        if self.bidirectional:
            self.aggregator_back = ConvGRU(gain=self.gain, dtype=self.dtype)
        self.predictor = Predictor(self.slots, self.gain, self.dtype)
        if self.slots:
            self.memory = Memory()

    def __call__(
        self, video: Array, train: bool = False, keys: Array | None = None
    ) -> tuple[Array, tuple[Direction, ...]]:
        """Maps of all blocks, and what was predicted in each direction.

        Args:
          video: (B, N frames, H, W, C), normalised.
          train: whether BatchNorm uses the statistics of the batch.
          keys: (B,) switch dropout on.

        Returns:
          (B, N, h, w, D) f32 and one or two :class:`Direction`.
        """
        maps = self.maps(video, train)
        return maps, self.directions(maps, self.masks(maps, keys))

    def maps(self, video: Array, train: bool = False) -> Array:
        """Signed maps of the blocks, means over time; shapes as in ``__call__``."""
        return encode_blocks(self.encoder, video, self.frames, train).mean(2)

    def masks(self, maps: Array, keys: Array | None) -> tuple[Array | None, ...]:
        """Dropout masks of each direction: one per block but the last."""
        return state_masks(self, maps, keys, self.drop)

    def directions(
        self, maps: Array, masks: tuple[Array | None, ...] = (None, None)
    ) -> tuple[Direction, ...]:
        """Predictions from maps (B, N, h, w, D), forward and, if ``bidirectional``, backward."""
        return read_ahead(self, maps, masks)

    def summary(self, maps: Array) -> Array:
        """Mean over places of the last state over all blocks; both directions side by side."""
        return summarise(readings(self, maps))


class PredictiveClassifier(nn.Module):
    """Encoder and aggregator of a :class:`PredictiveNet` with a classifier on top.

    ReLU, mean over time (in this order, unlike in pretraining), GRU over all blocks, mean of the
    last state over places, batch normalisation, dropout, linear layer.

    Attributes:
      num_classes: width of ``head``.
      drop: dropout before the head.
      state_drop: dropout of the aggregator's state.
      head_scale: factor on the head's initial weights, orthogonal ones.
      config, frames, bidirectional, gain: see :class:`PredictiveNet`.
    """

    config: BackboneConfig
    frames: int
    num_classes: int
    bidirectional: bool = False
    drop: float = 0.5
    state_drop: float = 0.1
    head_scale: float = 1.0
    gain: float = 1.0
    dtype: str = "float32"

    def setup(self):
        self.encoder = make_backbone(self.config, self.dtype)
        self.aggregator = ConvGRU(gain=self.gain, dtype=self.dtype)
        if self.bidirectional:
            self.aggregator_back = ConvGRU(gain=self.gain, dtype=self.dtype)
        wide = jnp.promote_types(self.dtype, jnp.float32).name
        self.norm = BatchNorm(dtype=wide)
        init = nn.initializers.orthogonal(self.head_scale)
        self.head = nn.Dense(self.num_classes, dtype=wide, kernel_init=init)

    def __call__(
        self,
        video: Array,
        keys: Array | None = None,
        train: bool = False,
        train_encoder: bool | None = None,
    ) -> Array:
        """Logits (B, num_classes) f32 of a normalised clip (B, N frames, H, W, C).

        Args:
          video: the clip.
          keys: (B,) switch dropout on.
          train: whether BatchNorm uses the statistics of the batch.
          train_encoder: the same for encoder and aggregator, whose dropout it also rules; None = as
            ``train``.
        """
        train_encoder = train if train_encoder is None else train_encoder
        state_keys = fold_keys(keys, 0) if train_encoder else None
        maps = self.maps(video, train_encoder)
        features = self.features(maps, state_keys, train)
        return self.head(dropout(features, self.drop, fold_keys(keys, 1), (0,)))

    def maps(self, video: Array, train: bool = False) -> Array:
        """Feature maps (B, N, t, h, w, D) of all blocks, see :func:`encode_blocks`."""
        return encode_blocks(self.encoder, video, self.frames, train)

    def features(self, maps: Array, keys: Array | None = None, train: bool = False) -> Array:
        """Normalised features (B, D) of ``maps``, or (B, 2 D) if ``bidirectional``.

        Args:
          maps: of :meth:`maps`.
          keys: (B,) switch dropout of the state on.
          train: whether the norm uses the statistics of the batch.
        """
        pairs = readings(self, nn.relu(maps).mean(2))
        return self.norm(summarise(pairs, keys, self.state_drop), train)


class SurpriseClassifier(PredictiveClassifier):
    """A :class:`PredictiveNet` with a classifier on how its predictions p and the maps z differ.

    Mean over places and steps of z, p, |z - p| and z p, side by side; batch normalisation, dropout,
    linear layer.

    Attributes:
      predict, slots: see :class:`PredictiveNet`.
    """

    predict: int = 3
    slots: int = 0

    def setup(self):
        super().setup()
        self.predictor = Predictor(self.slots, self.gain, self.dtype)
        if self.slots:
            self.memory = Memory()

    def features(self, maps: Array, keys: Array | None = None, train: bool = False) -> Array:
        """Normalised comparison (B, 4 D) of ``maps``, or (B, 8 D) if ``bidirectional``."""
        maps = maps.mean(2)
        directions = read_ahead(self, maps, state_masks(self, maps, keys, self.state_drop))
        seen = [discrepancy(d.target, d.predicted) for d in directions]
        return self.norm(jnp.concatenate(seen, -1), train)


def discrepancy(target: Array, predicted: Array) -> Array:
    """Means (B, 4 D) over steps and places of z, p, |z - p|, z p; both (B, q, h, w, D)."""
    parts = [target, predicted, jnp.abs(target - predicted), target * predicted]
    return jnp.concatenate(parts, axis=-1).mean((1, 2, 3))


def encode_blocks(encoder: nn.Module, video: Array, frames: int, train: bool = False) -> Array:
    """Feature maps (B, N, t, h, w, D) f32 of the blocks of a clip, each encoded on its own.

    Args:
      encoder: bound module of :func:`jaxvid.models.backbones.make_backbone`.
      video: (B, N frames, H, W, C).
      frames: per block.
      train: whether BatchNorm uses the statistics of the batch.

    Raises:
      ConfigError: the clip isn't made of whole blocks.
    """
    rows, length = video.shape[:2]
    rule = f"a divisor of the clip's {length} frames"
    check(length % frames == 0, "method.block_frames", frames, rule)
    blocks = widen(encoder(video.reshape(-1, frames, *video.shape[2:]), train))
    return blocks.reshape(rows, -1, *blocks.shape[1:])


def readings(net: nn.Module, maps: Array) -> list[tuple[ConvGRU, Array]]:
    """The aggregators of ``net``, each with the maps (B, N, h, w, D) in the order it reads them."""
    back = [(net.aggregator_back, maps[:, ::-1])] if net.bidirectional else []
    return [(net.aggregator, maps), *back]


def state_masks(
    net: nn.Module, maps: Array, keys: Array | None, drop: float
) -> tuple[Array | None, ...]:
    """Dropout masks of the states of each of :func:`readings`: one per block but the last."""
    steps = maps.shape[1] - 1
    return tuple(
        dropout_masks(fold_keys(keys, i), drop, steps, gru.start(maps).shape)
        for i, (gru, _) in enumerate(readings(net, maps))
    )


def read_ahead(
    net: nn.Module, maps: Array, masks: tuple[Array | None, ...]
) -> tuple[Direction, ...]:
    """Predictions of the last blocks in each of :func:`readings`, see :class:`PredictiveNet`.

    Args:
      net: with ``predict``, ``predictor`` and, if it has ``slots``, ``memory``.
      maps: (B, N, h, w, D).
      masks: of :func:`state_masks`.
    """
    return tuple(_read(net, gru, m, mask) for (gru, m), mask in zip(readings(net, maps), masks))


def _read(net, gru, maps, masks) -> Direction:
    seen = maps.shape[1] - net.predict
    past, target = maps[:, :seen], maps[:, seen:]
    first, later = (None, None) if masks is None else (masks[:seen], masks[seen:])
    _, state = gru(nn.relu(past), masks=first)
    context, predicted, slots = state[-1], [], []
    for i in range(net.predict):
        out = net.predictor(state[-1])
        if net.slots:
            slots.append(out)
            out = net.memory(out, maps.shape[-1])
        predicted.append(out)
        if i < net.predict - 1:
            state = gru.step(state, nn.relu(out), None if later is None else later[i])
    slots = jnp.stack(slots, 1) if slots else None
    return Direction(jnp.stack(predicted, 1), target, context, slots)


def summarise(
    pairs: list[tuple[ConvGRU, Array]], keys: Array | None = None, drop: float = 0.0
) -> Array:
    """Means over places of the last states, side by side: (B, D) or (B, 2 D).

    Args:
      pairs: of :func:`readings`.
      keys: (B,) switch dropout of the state on.
      drop: its rate.
    """
    last = []
    for i, (gru, maps) in enumerate(pairs):
        shape = gru.start(maps).shape
        masks = dropout_masks(fold_keys(keys, i), drop, maps.shape[1], shape)
        _, state = gru(nn.relu(maps), masks=masks)
        last.append(state[-1].mean((1, 2)))
    return jnp.concatenate(last, axis=-1)
