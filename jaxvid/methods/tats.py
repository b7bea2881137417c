"""TATS: masked autoencoder with a trajectory-aware token sampler trained by PPO."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxvid.core.config import ConfigError, check
from jaxvid.core.types import Batch, Context, LossOut, Objective, RunInfo, Tree
from jaxvid.losses import policy as pl
from jaxvid.masking.patterns import Mask
from jaxvid.masking.sampler import moving_share
from jaxvid.masking.scored import num_scored
from jaxvid.methods.sampled import TrajectorySampled
from jaxvid.models.layers import fold_keys
from jaxvid.models.patches import Grid
from jaxvid.models.policy import Policy

SAMPLER = "sampler/.*"
REST = "(?!sampler/).*"


@dataclass(frozen=True)
class TATS(TrajectorySampled):
    """Trajectory-Aware Adaptive Token Sampler (Rai 2025, chapter 5, Algorithm 1).

    The sampler gives a distribution over the tokens of a clip, visible tokens are drawn from it,
    and the autoencoder's error on every masked token is the reward. For the first ``m_o`` epochs
    masks are uniformly random and the sampler is left as it is. From then on the autoencoder is
    trained in every step (on masks of the sampler), the sampler in every ``k``-th.

    With ``k = ppo_epochs = 1`` both are trained from one forward pass of the sampler. Else the
    episodes of the last ``k`` steps are replayed in order, ``ppo_epochs`` times, one optimiser step
    per episode; they are kept in ``extra["episodes"]`` (all but the present one), so a run can be
    resumed at any step. A step that the engine skips leaves its predecessor in that place.

    Attributes:
      m_o: epochs with uniform masks.
      k: steps per update of the sampler.
      ppo_epochs: passes over the episodes.
      ppo: "token" (a reward per masked token), "clip_mean" (one per clip) or "resampled" (as
        printed in the thesis).
      c1, c2, c3: weights of the clipped objective, the value error and the entropy.
      clip: epsilon of the clipped ratio.
      value_clip: bound on the change of the value in its loss; 0 = off.
      normalise_advantage: zero mean and unit variance over the batch; couples its examples.
    """

    m_o: float = 10.0
    k: int = 1
    ppo_epochs: int = 1
    ppo: Literal["token", "clip_mean", "resampled"] = "token"
    c1: float = 1e-4
    c2: float = 1e-4
    c3: float = 1e-4
    clip: float = 0.2
    value_clip: float = 0.0
    normalise_advantage: bool = False

    # Recorded episodes have the batch on their second axis.
    sharding: ClassVar[tuple] = ((r"extra/episodes/", (None, "batch")),)

    def __post_init__(self):
        super().__post_init__()
        for name in ("k", "ppo_epochs"):
            check(getattr(self, name) > 0, f"method.{name}", getattr(self, name), "above 0")
        for name in ("m_o", "clip", "value_clip"):
            check(getattr(self, name) >= 0, f"method.{name}", getattr(self, name), "0 or more")

    @property
    def coupling(self) -> Literal["none", "batch"]:
        """What :class:`Method` says: a replayed episode is whole, under accumulation too."""
        return "batch" if self.normalise_advantage and not self.replays else "none"

    @property
    def replays(self) -> bool:
        """Whether episodes are recorded and replayed."""
        return self.k > 1 or self.ppo_epochs > 1

    def objectives(self, run: RunInfo) -> tuple[Objective, ...]:
        """The autoencoder in every step; the sampler from epoch ``m_o`` on."""
        start = round(self.m_o * run.steps_per_epoch)
        if 0 < run.total_steps <= start:
            raise ConfigError(
                f"method.m_o: after {self.m_o} epochs of uniform masks (step {start}) nothing is "
                f"left of the {run.total_steps} steps to train the sampler in"
            )
        mae = Objective("loss", trains=REST)
        if not self.replays:
            return mae, Objective("loss", SAMPLER, "policy", start=start)
        # The second one never trains: it tells the loss, statically, that the sampler is in charge.
        return (
            mae,
            Objective("loss", SAMPLER, "policy", start=start, dry=max(run.total_steps, 1)),
            Objective(
                "policy_loss", SAMPLER, "policy", start=start,
                every=self.k, updates=self.k * self.ppo_epochs,
            ),
        )  # fmt: skip

    def init(self, key: Array, batch: Batch) -> tuple[Tree, Tree]:
        """Parameters ``encoder``, ``decoder``, ``sampler``; room for k - 1 episodes."""
        params, extra = super().init(key, batch)
        rows, grid = len(batch["video"]), self.grid(batch["video"])
        n = grid[0] * grid[1] * grid[2]
        scored = num_scored(n, n - self.count_visible(grid), self.recon_ratio)
        if self.k > 1:
            empty = {
                "tokens": jnp.zeros((n, self.encoder.width), self.dtype),
                "masked": jnp.zeros(scored, jnp.int32),
                "logp": jnp.zeros(n),
                "value": jnp.zeros(()),
                "error": jnp.zeros(scored),
                "key": jax.random.key_data(jax.random.key(0)),
            }
            room = lambda x: jnp.zeros((self.k - 1, rows, *x.shape), x.dtype)  # noqa: E731
            extra = extra | {"episodes": jax.tree.map(room, empty)}
        return params, extra

    def record(
        self, tokens: Array, mask: Mask, guess: Policy, error: Array, keys: Array
    ) -> dict[str, Array]:
        """An episode: all that an update of the sampler needs to know, as constants.

        Args:
          tokens: (B, N, D) as the sampler observed them.
          mask: the action, of the masked tokens those that were decoded.
          guess: recorded policy.
          error: (B, Nm), the reward of every one of them.
          keys: (B,) keys of the clips, hence of the landmarks.
        """
        episode = {
            "tokens": tokens,
            "masked": mask.masked,
            "logp": guess.logp,
            "value": guess.value,
            "error": error,
            "key": jax.random.key_data(keys),
        }
        return lax.stop_gradient(episode)

    def loss(self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree) -> LossOut:
        """Reconstruction loss; with the sampler in charge and no replay, its PPO loss as well."""
        del extra, carry
        video, keys = batch["video"], batch["rng"]
        grid = self.grid(video)
        in_charge = "policy" in ctx.active
        logp = jnp.zeros((video.shape[0], grid[0] * grid[1] * grid[2]))
        if in_charge:
            tokens = self.observe(params, video)
            guess = self.act(params, tokens, grid, keys)
            logp = guess.logp
        mask = self.scored(self.draw(logp, keys, grid), keys, grid)
        # Visible patches are embedded again: the gradient of so few costs less than that of all.
        seen = self.tokenise(params, video, mask.visible)
        predicted = self.predict_masked(params, seen, mask, grid, fold_keys(keys, 1))
        error = self.per_token_loss(video, predicted, mask.masked)
        loss = error.mean()
        metrics = {
            "reconstruction": loss,
            "moving_share": moving_share(video, mask.visible, self.encoder.patch).mean(),
        }
        if not in_charge:
            return LossOut(loss, metrics)
        episode = self.record(tokens, mask, guess, error, keys)
        if self.replays:
            return LossOut(loss, metrics, episode)
        objective, logs = self.ppo_objective(guess, episode, grid, 0)
        return LossOut(loss + objective.mean(), metrics | logs)

    def policy_loss(
        self, params: Tree, extra: Tree, batch: Batch, ctx: Context, carry: Tree
    ) -> LossOut:
        """PPO loss of one recorded episode; ``carry`` is the present one, the k-th."""
        grid = self.grid(batch["video"])
        episode = carry
        if self.k > 1:
            turn = ctx.update % self.k
            episode = jax.tree.map(
                lambda kept, new: jnp.where(turn < self.k - 1, kept[turn], new),
                extra["episodes"],
                carry,
            )
        keys = jax.random.wrap_key_data(episode["key"])
        guess = self.act(params, episode["tokens"], grid, keys)
        objective, logs = self.ppo_objective(guess, episode, grid, ctx.update)
        return LossOut(objective.mean(), logs)

    def ppo_objective(
        self, guess: Policy, episode: dict, grid: Grid, update: Array | int
    ) -> tuple[Array, dict]:
        """``-J`` of thesis eq. 5.7 per clip (B,), and what one watches.

        Args:
          guess: present policy on the episode's tokens.
          episode: see :meth:`record`.
          grid: token grid.
          update: number of the update, for the draws of ``ppo="resampled"``.
        """
        logp, old, masked, error = guess.logp, episode["logp"], episode["masked"], episode["error"]
        target = error.mean(axis=-1)
        advantage = error - episode["value"][:, None]
        if self.ppo == "clip_mean":
            advantage = target - episode["value"]
        if self.normalise_advantage:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        if self.ppo == "token":
            actor = pl.ppo_token_loss(logp, old, masked, advantage, self.clip)
        elif self.ppo == "clip_mean":
            actor = pl.ppo_clip_mean_loss(logp, old, masked, advantage, self.clip)
        else:
            keys = fold_keys(jax.random.wrap_key_data(episode["key"]), 3 + update)
            redrawn = self.scored(self.draw(logp, keys, grid), keys, grid).masked
            actor = pl.ppo_resampled_loss(logp, old, masked, redrawn, advantage, self.clip)
        critic = pl.value_loss(guess.value, target, episode["value"], self.value_clip)
        loss = self.c1 * actor + self.c2 * critic - self.c3 * pl.entropy(logp)
        logs = pl.policy_metrics(logp, old, masked, episode["value"], target, self.clip)
        return loss, logs | {"value_error": critic.mean(), "policy_loss": loss.mean()}

    def after_update(
        self, params: Tree, extra: Tree, carry: Tree, ctx: Context
    ) -> tuple[Tree, Tree]:
        """Keep the episode for a later update of the sampler."""
        if self.k == 1 or "policy" not in ctx.active:
            return params, extra
        start = round(self.m_o * ctx.run.steps_per_epoch)
        slot = (ctx.step - start) % self.k
        # The k-th episode is used at once: its slot doesn't exist and the write is dropped.
        episodes = jax.tree.map(
            lambda kept, new: kept.at[slot].set(new, mode="drop"), extra["episodes"], carry
        )
        return params, {**extra, "episodes": episodes}
