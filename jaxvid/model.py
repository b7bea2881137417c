"""A trained network ready for use: ``load(path).encode("clip.mp4")``."""

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxvid.core.checkpoint import expand_init_from, init_from, load_run
from jaxvid.core.config import ConfigError, choose, from_config
from jaxvid.core.method import Method
from jaxvid.core.sharding import MeshConfig, make_mesh, replicated
from jaxvid.core.types import Batch, Features, Tree, View
from jaxvid.data.config import DataConfig
from jaxvid.data.images import DecodedFrames, Video
from jaxvid.data.pipeline import cut_fixed, resolve_views
from jaxvid.data.sources import VideoFile
from jaxvid.evals.api import EvalContext
from jaxvid.evals.features import eval_context, eval_views, fresh_state
from jaxvid.interop import read_checkpoint
from jaxvid.methods import make_method

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class Model:
    """A network with its weights and the clip plan it is used with.

    Attributes:
      method: the network's functions.
      params, extra: its weights.
      data: clip plan (frames, stride, plan, size) and data set.
      config: the whole config of the run.
      step: training step of the weights.
    """

    method: Method
    params: Tree
    extra: Tree
    data: DataConfig
    config: ConfigDict
    step: int

    def encode(self, video, *, clips: int = 1, crops: int = 1) -> Features:
        """Features of one video or of a batch of clips.

        Args:
          video: path of a video file (for a network that reads flow, of a flow file); or decoded
            frames uint8 (T, H, W, 3) of any length and size, sampled and cropped as a file would
            be; or prepared clips uint8 (B, frames, size, size, 3).
          clips, crops: views of one video, spread over time and along its longer side.

        Returns:
          ``tokens`` (B, t, h, w, D) and ``pooled`` (B, D); B = clips * crops for one video, in
          clip-major order.
        """
        return _encode(self.method, self.params, self.extra, self.batch(video, clips, crops))

    def predict(self, video, *, clips: int = 1, crops: int = 1) -> np.ndarray:
        """Class probabilities (classes,) of one video, averaged over its views.

        Raises:
          ConfigError: the method has no classifier.
        """
        if not hasattr(self.method, "predict"):
            raise ConfigError(
                f"method {type(self.method).__name__} has no classifier; fine-tune it first "
                "(configs/finetune_*.py)"
            )
        logits = _logits(self.method, self.params, self.extra, self.batch(video, clips, crops))
        return np.asarray(jax.nn.softmax(logits.astype(jnp.float32), axis=-1).mean(axis=0))

    def batch(self, video, clips: int = 1, crops: int = 1) -> Batch:
        """The uint8 batch that the network gets for ``video`` (see :meth:`encode`)."""
        views = resolve_views(self.data, eval_views(self.method))
        if isinstance(video, (str, Path)):
            return self._cut(VideoFile(str(video)), views, clips, crops)
        video = np.asarray(video)
        if video.dtype != np.uint8 or video.ndim not in (4, 5) or video.shape[-1] != 3:
            raise ValueError(
                "video: a path, uint8 frames (T, H, W, 3) or uint8 clips (B, T, H, W, 3); got "
                f"{video.dtype} {video.shape}"
            )
        if video.ndim == 4:
            return self._cut(DecodedFrames("video", video), views, clips, crops)
        view = views["video"]
        expected = (view.frames, view.size, view.size, 3)
        if video.shape[1:] != expected:
            raise ValueError(f"clips: shape {video.shape}, expected (B, {str(expected)[1:]}")
        return {"video": video}

    def context(self, **options) -> EvalContext:
        """The network on all devices there are, for evaluators; ``options``: fields of the rest."""
        mesh = make_mesh(MeshConfig())
        params, extra = jax.device_put((self.params, self.extra), replicated(mesh))
        return EvalContext(self.method, params, extra, self.data, mesh, **options)

    def _cut(self, video: Video, views: Mapping[str, View], clips: int, crops: int) -> Batch:
        view = views["video"]
        side = max(self.data.short_side or view.size, 0)
        return cut_fixed({view.source: video}, views, side, clips, crops)


@partial(jax.jit, static_argnames="method")
def _encode(method: Method, params: Tree, extra: Tree, batch: Batch) -> Features:
    return method.encode(params, extra, method.augment(batch, eval_context()))


@partial(jax.jit, static_argnames="method")
def _logits(method: Method, params: Tree, extra: Tree, batch: Batch) -> jax.Array:
    return method.predict(params, extra, method.augment(batch, eval_context()))["logits"]


def load(
    path: str | Path,
    *,
    weights: str = "raw",
    step: int | None = None,
    config: ConfigDict | str | None = None,
    settings: Sequence[str] = (),
) -> Model:
    """Read a run's checkpoint, or an imported PyTorch one.

    Args:
      path: run folder, its ``checkpoints`` folder or one step of it; or a PyTorch file, which
        needs ``config``.
      weights: "raw" or "ema" (the average that a run with ``config.ema`` keeps).
      step: which checkpoint of a run; default the newest.
      config: config, or config file with its variant ("configs/finetune_ssv2.py:B"), instead of
        the stored one.
      settings: changes such as "data.manifest=my.csv".

    Raises:
      CheckpointError: nothing to read there.
      ConfigError: unknown weights or settings, or a PyTorch file without a config.
    """
    return read_run(path, step=step, config=config, settings=settings).model(weights)


@dataclass(frozen=True)
class StoredRun:
    """What a checkpoint holds: config, and every set of weights by name ("raw", "ema")."""

    path: str
    config: ConfigDict
    method: Method
    data: DataConfig
    weights: Mapping[str, Tree]
    extra: Tree
    step: int
    notes: tuple[str, ...] = ()

    def model(self, weights: str) -> Model:
        """The network with one of its sets of weights; ConfigError for any other."""
        if weights not in self.weights:
            have = ", ".join(self.weights)
            raise ConfigError(f"{self.path}: no '{weights}' weights (it has: {have})")
        return Model(
            self.method, self.weights[weights], self.extra, self.data, self.config, self.step
        )


def read_run(
    path: str | Path,
    *,
    step: int | None = None,
    config: ConfigDict | str | None = None,
    settings: Sequence[str] = (),
) -> StoredRun:
    """Config and weights of a checkpoint; arguments as in :func:`load`.

    Parameters that a PyTorch file doesn't hold (a decoder, a sampler) stay freshly initialised and
    are listed in ``notes``.
    """
    torch = Path(path).suffix in TORCH_SUFFIXES
    if isinstance(config, str):
        config = read_config(config)
    if torch and config is None:
        raise ConfigError(f"{path}: a PyTorch file has no config; name one with --config=FILE")
    if torch:
        config = change(config, settings)
        method, data = make_parts(config)
        params, extra, notes = _import(path, method, data)
        return StoredRun(str(path), config, method, data, {"raw": params}, extra, 0, notes)
    stored, params, extra, ema, step = load_run(path, step)
    config = change(stored if config is None else config, settings)
    if config.method.get("num_classes") == 0:  # "from the manifest": the run has looked it up
        config.method.num_classes = stored.method.get("num_classes", 0)
    method, data = make_parts(config)
    weights = {"raw": params} | ({"ema": ema} if ema is not None else {})
    return StoredRun(str(path), config, method, data, weights, extra, step)


def make_parts(config: ConfigDict) -> tuple[Method, DataConfig]:
    """Method and data of a config.

    Raises:
      ConfigError: a field can't work.
    """
    data = from_config(DataConfig, config.data, "config.data")
    return make_method(config.method), data


def _import(path, method: Method, data: DataConfig) -> tuple[Tree, Tree, tuple[str, ...]]:
    fresh = jax.jit(lambda: fresh_state(method, data))()
    rows = expand_init_from(str(path), method.inherits)
    state, table = init_from(fresh, rows, read_checkpoint)
    rest = [(status, target) for target, status, _ in table if status != "matched"]
    # A decoder or sampler isn't needed to encode; a gap in the encoder gives wrong features.
    needed = ("params/encoder/", "extra/batch_stats/encoder/")
    gaps = [target for status, target in rest if target.startswith(needed)]
    if gaps:
        raise ConfigError(
            f"{path} doesn't fit --config: {gaps[0]} ({len(gaps)} in all) is missing in the file "
            "or has another shape; choose the config of the same method, size and input"
        )
    return state.params, state.extra, tuple(f"{status}: {target}" for status, target in rest)


def read_config(path: str) -> ConfigDict:
    """Config of a file such as "configs/tats_ssv2.py:L"; what follows the colon is its variant.

    Raises:
      ConfigError: no such file, or no ``get_config`` in it.
    """
    file, _, arg = path.partition(":")
    if not Path(file).is_file():
        raise ConfigError(f"--config={path}: no file {file}")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ConfigError(f"--config={path}: {file} has no get_config()")
    return module.get_config(arg) if arg else module.get_config()


def change(config: ConfigDict, settings: Sequence[str]) -> ConfigDict:
    """Copy of ``config`` with settings such as "data.manifest=my.csv" made.

    Values are Python literals; what isn't one, and every value of a text field, is text.

    Raises:
      ConfigError: no "=", or an unknown field, with the nearest valid one.
    """
    tree = config.to_dict()
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: expected field=value")
        *groups, name = path.split(".")
        at = tree
        for group in groups:
            at = choose(group, at, f"--set {setting}")
            if not isinstance(at, dict):
                raise ConfigError(f"--set {setting}: '{group}' is a value, not a group")
        old = choose(name, at, f"--set {setting}")
        at[name] = text if isinstance(old, str) else _literal(text)
    return ConfigDict(tree)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
