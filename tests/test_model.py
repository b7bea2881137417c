"""Reading a stored run, and features of single videos."""

import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from safetensors.numpy import save_file

import jaxvid
from jaxvid.core import trees
from jaxvid.core.checkpoint import CheckpointError
from jaxvid.core.config import ConfigError
from jaxvid.core.sharding import MeshConfig, make_mesh
from jaxvid.data.embedded import embedded_folder
from jaxvid.data.manifest import load_manifest
from jaxvid.data.sources import VideoFile
from jaxvid.evals.api import EvalContext
from jaxvid.interop.match import to_torch_state
from jaxvid.model import change, load, read_config, read_run
from tests.stored import save_run


@pytest.fixture(scope="module")
def run(tmp_path_factory, cache_dir):
    return save_run(tmp_path_factory.mktemp("run"), "videomae_ucf101", cache_dir)


@pytest.fixture(scope="module")
def clip(run):
    data = load(run).data
    return load_manifest(embedded_folder(data) / "manifest.csv", data.eval_split).rows[2].path


def test_a_file_gives_the_features_that_evaluators_see(run, clip):
    model = jaxvid.load(run)
    found = model.encode(clip)
    mesh = make_mesh(MeshConfig())
    table = EvalContext(model.method, model.params, model.extra, model.data, mesh).features("test")
    assert found.tokens.shape == (1, 4, 4, 4, 48)
    np.testing.assert_allclose(found.pooled[0], table.pooled[2], rtol=1e-4, atol=1e-5)


def test_frames_are_sampled_and_cropped_as_the_file_is(run, clip):
    model = load(run)
    video = VideoFile(clip)
    frames = video.read(np.arange(video.num_frames()), 0)
    from_file, from_frames = model.batch(clip)["video"], model.batch(frames)["video"]
    assert from_file.shape == from_frames.shape == (1, 8, 32, 32, 3)
    # The file is shrunk while decoding, the frames by area: the same picture, other filters.
    assert np.abs(from_file.astype(int) - from_frames).mean() < 6
    np.testing.assert_array_equal(model.batch(from_frames)["video"], from_frames)


def test_views_of_one_video(run, clip):
    model = load(run)
    batch = model.batch(clip, clips=2, crops=3)["video"]
    assert batch.shape == (6, 8, 32, 32, 3)
    assert model.encode(clip, clips=2, crops=3).pooled.shape == (6, 48)
    # The embedded videos are square: all crops of a clip are equal, its clips are not.
    np.testing.assert_array_equal(batch[0], batch[2])
    assert (batch[0] != batch[3]).any()


def test_what_is_no_video_is_refused(run):
    model = load(run)
    with pytest.raises(ValueError, match="uint8 frames"):
        model.encode(np.zeros((8, 32, 32, 3)))
    with pytest.raises(ValueError, match=r"expected \(B, 8, 32, 32, 3\)"):
        model.encode(np.zeros((2, 8, 16, 16, 3), np.uint8))
    with pytest.raises(ConfigError, match="no classifier"):
        model.predict(np.zeros((8, 32, 32, 3), np.uint8))


def test_steps_and_sets_of_weights(run):
    newest, older = load(run), load(run, step=3)
    assert (newest.step, older.step) == (6, 3)
    kernel = [m.params["decoder"]["head"]["kernel"] for m in (newest, older)]
    np.testing.assert_allclose(kernel[0], kernel[1] + 0.01, atol=1e-6)
    ema = load(run, weights="ema").params["decoder"]["head"]["kernel"]
    np.testing.assert_allclose(ema, 2 * kernel[0], rtol=1e-6)
    with pytest.raises(ConfigError, match=r"no 'best' weights \(it has: raw, ema\)"):
        load(run, weights="best")
    with pytest.raises(CheckpointError, match="no step 4"):
        load(run, step=4)


def test_settings_change_what_they_name():
    config = ConfigDict({"data": {"manifest": "", "size": 32, "rrc_scale": [0.5, 1.0]}})
    found = change(config, ["data.manifest=12", "data.size=64", "data.rrc_scale=(0.1,1)"])
    assert found.data.manifest == "12"
    assert found.data.size == 64
    assert found.data.rrc_scale == (0.1, 1)
    assert config.data.size == 32
    for setting, text in (
        ("data.sizes=3", "did you mean 'size'"),
        ("dat.size=3", "did you mean 'data'"),
        ("data.size.x=3", "'size' is a value"),
        ("data.size", "expected field=value"),
    ):
        with pytest.raises(ConfigError, match=text):
            change(config, [setting])


def test_a_manifest_that_would_not_be_read_is_refused(run):
    with pytest.raises(ConfigError, match=r"set data\.source=video"):
        read_run(run, settings=["data.manifest=mine.csv"])


def test_config_files(tmp_path):
    assert read_config("configs/videomae_ucf101.py:smoke").data.source == "embedded"
    with pytest.raises(ConfigError, match=r"no file configs/nothing\.py"):
        read_config("configs/nothing.py:B")
    (tmp_path / "a.py").write_text("x = 1\n")
    with pytest.raises(ConfigError, match="has no get_config"):
        read_config(str(tmp_path / "a.py"))


def test_a_torch_file_needs_a_config():
    with pytest.raises(ConfigError, match="name one with --config=FILE"):
        read_run("weights.pth")


def test_a_torch_file_gives_the_features_of_the_run_it_was_made_from(run, clip, tmp_path):
    model, file = load(run), tmp_path / "weights.safetensors"
    state = to_torch_state(trees.flatten(model.params), "videomae_pretrain")
    # safetensors writes the memory of an array as it lies, transposed or not.
    save_file({name: np.ascontiguousarray(value) for name, value in state.items()}, file)
    imported = load(file, config=model.config)
    np.testing.assert_array_equal(imported.encode(clip).pooled, model.encode(clip).pooled)
    wider = change(model.config, ["method.encoder.width=96"])
    with pytest.raises(ConfigError, match=r"doesn't fit --config: params/encoder/"):
        load(file, config=wider)


def test_importing_the_package_loads_no_jax():
    code = "import sys, jaxvid; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        jaxvid.lod  # noqa: B018
