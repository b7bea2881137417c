"""SIGMA: masked video modelling in the space of prototypes, with assignments by Sinkhorn-Knopp."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import check
from jaxvid.core.types import Batch, Context, LossOut, Tree
from jaxvid.losses import assignment
from jaxvid.losses.reconstruction import pixel_target
from jaxvid.masking.patterns import Mask, Pattern, sample_mask
from jaxvid.methods.masked_model import MaskedModel
from jaxvid.models.heads import TokenProjection
from jaxvid.models.layers import fold_keys
from jaxvid.models.patches import gather_tokens, patchify


@dataclass(frozen=True)
class Sigma(MaskedModel):
    """Sinkhorn-guided masked video modelling (Salehi et al. 2024).

    The decoder predicts a feature ``x_psi`` per hidden token instead of its pixels; the target
    ``x_phi`` is a projection of the clip (:meth:`project`, up to subclasses). Both are compared
    with the same prototypes C; each side predicts the assignment q of the other:

        L = CE(S_phi / tau, q_psi) + CE(S_psi / tau, q_phi),  S = cos(x, C)

    q is balanced over all hidden tokens of the global batch, without which one prototype would
    take everything. The first term trains projection and prototypes, the second encoder and
    decoder. Rows of C have unit length: fresh ones, and after every update.

    Attributes:
      mask: which tokens are hidden; "tube" as published.
      prototypes: number K of prototypes.
      temperature: tau.
      eps: temperature of the assignments.
      iters: Sinkhorn iterations; 0 = not balanced, which collapses (for comparison).
      targets: "hard" (the likeliest prototype, as in the public code) or "soft".
      proto_grad: which terms train C: that of "phi", or "both".
      chunk: hidden tokens per clip that are scored at a time, 0 = all; less memory, more work, see
        :mod:`jaxvid.losses.assignment`.
    """

    coupling: ClassVar[Literal["none", "batch"]] = "batch"

    mask: Pattern = "tube"
    prototypes: int = 3000
    temperature: float = 0.1
    eps: float = 0.05
    iters: int = 10
    targets: assignment.TargetForm = "hard"
    proto_grad: Literal["phi", "both"] = "phi"
    chunk: int = 0

    def __post_init__(self):
        super().__post_init__()
        for name in ("temperature", "eps"):
            check(getattr(self, name) > 0, f"method.{name}", getattr(self, name), "above 0")
        check(self.prototypes > 1, "method.prototypes", self.prototypes, "2 or more")
        for name in ("iters", "chunk"):
            check(getattr(self, name) >= 0, f"method.{name}", getattr(self, name), "0 or more")

    @property
    def width(self) -> int:
        """Width D of the features."""
        raise NotImplementedError

    def project(self, params: Tree, extra: Tree, video: Array, masked: Array) -> Array:
        """Target features (B, Nm, D) f32 of the tokens ``masked`` of a normalised clip."""
        raise NotImplementedError

    def outputs(self, video: Array) -> int:
        """Width of the features."""
        del video
        return self.width

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder``, ``decoder``, ``prototypes``; no extra."""
        params, extra = super().init(key, batch)
        rows = jax.random.normal(jax.random.fold_in(key, 2), (self.prototypes, self.width))
        return params | {"prototypes": assignment.direction(rows)}, extra

    def choose_mask(self, params: Tree, extra: Tree, batch: Batch) -> tuple[Mask, dict]:
        """One mask per clip from its own key."""
        del params, extra
        return sample_mask(self.mask, batch["rng"], self.grid(batch["video"]), self.rho), {}

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Both cross-entropies of :meth:`compare`."""
        del ctx, carry
        video, keys = batch["video"], batch["rng"]
        mask = self.scored(self.choose_mask(params, extra, batch)[0], keys, self.grid(video))
        seen = self.tokenise(params, video, mask.visible)
        x_psi = self.predict_masked(params, seen, mask, self.grid(video), fold_keys(keys, 1))
        x_phi = self.project(params, extra, video, mask.masked)
        loss_phi, loss_psi, figures = self.compare(params["prototypes"], x_phi, x_psi)
        return LossOut(loss_phi + loss_psi, figures | {"loss_phi": loss_phi, "loss_psi": loss_psi})

    def compare(self, prototypes: Array, x_phi: Array, x_psi: Array) -> tuple[Array, Array, dict]:
        """The two terms, and what tells a healthy run from a collapsed one.

        Args:
          prototypes: (K, D) unit vectors.
          x_phi, x_psi: (B, Nm, D), row by row the same tokens.

        Returns:
          ``CE(S_phi, q_psi)``, ``CE(S_psi, q_phi)``, figures.
        """
        phi, psi = assignment.direction(x_phi), assignment.direction(x_psi)
        fixed = lax.stop_gradient(prototypes)
        v_phi, v_psi = (
            assignment.balance(x, fixed, self.eps, self.iters, self.chunk) for x in (phi, psi)
        )
        form = {
            "temperature": self.temperature, "eps": self.eps, "form": self.targets,
            "chunk": self.chunk,
        }  # fmt: skip
        moved = prototypes if self.proto_grad == "both" else fixed
        loss_phi = assignment.assigned_loss(phi, prototypes, psi, v_psi, **form).mean()
        loss_psi = assignment.assigned_loss(psi, moved, phi, v_phi, **form).mean()
        of_phi, of_psi = (
            assignment.assign(x, fixed, v, self.eps, self.chunk)
            for x, v in ((phi, v_phi), (psi, v_psi))
        )
        figures = {
            **assignment.usage(of_phi.hard, len(prototypes)),
            "agreement": 100.0 * (of_phi.hard == of_psi.hard).mean(),
            "assignment_entropy": of_phi.entropy.mean() / jnp.log(len(prototypes)),
            # Of the targets: all alike is the trivial solution.
            "feature_std": assignment.direction_std(phi),
            "feature_std_psi": assignment.direction_std(psi),
        }
        return loss_phi, loss_psi, figures

    def prototype_map(self, params: Tree, extra: Tree, batch: Batch) -> Array:
        """Number of the prototype nearest to the projection of every token, (B, t, h, w)."""
        video, grid = batch["video"], self.grid(batch["video"])
        every = jnp.tile(jnp.arange(math.prod(grid)), (len(video), 1))
        tokens = assignment.direction(self.project(params, extra, video, every))
        return (tokens @ params["prototypes"].T).argmax(-1).reshape(len(video), *grid)

    def after_update(
        self, params: Tree, extra: Tree, carry: Tree, ctx: Context
    ) -> tuple[Tree, Tree]:
        """Prototypes back to unit length, outside of the gradient."""
        del carry, ctx
        return params | {"prototypes": assignment.direction(params["prototypes"])}, extra


@dataclass(frozen=True)
class SigmaMLP(Sigma):
    """SIGMA whose projection is an MLP on the normalised pixels of a tubelet, learned too.

    Attributes:
      dim: width of the features.
      head_widths: hidden layers of the projection.
    """

    dim: int = 256
    head_widths: tuple[int, ...] = (1024, 1024, 512)

    def __post_init__(self):
        super().__post_init__()
        check(self.dim > 0, "method.dim", self.dim, "above 0")

    @property
    def width(self) -> int:
        """Width of the features."""
        return self.dim

    def projection_net(self) -> TokenProjection:
        """The module that projects pixels."""
        return TokenProjection((*self.head_widths, self.dim), self.dtype)

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """As :class:`Sigma`, and parameters ``projection``."""
        params, extra = super().init(key, batch)
        inputs = math.prod(self.encoder.patch) * batch["video"].shape[-1]
        made = self.projection_net().init(jax.random.fold_in(key, 3), jnp.zeros((1, 1, inputs)))
        return params | {"projection": made["params"]}, extra

    def project(self, params: Tree, extra: Tree, video: Array, masked: Array) -> Array:
        """Target features (B, Nm, dim) f32 of the tokens ``masked`` of a normalised clip."""
        del extra
        labels = self.labels(video, masked)
        return self.projection_net().apply({"params": params["projection"]}, labels)

    def labels(self, video: Array, masked: Array) -> Array:
        """Pixels of the tokens ``masked``, normalised per token and channel, (B, Nm, P*C)."""
        pixels = gather_tokens(patchify(video, self.encoder.patch), masked).astype(jnp.float32)
        return pixel_target(self.unnormalise(pixels))
