import typing
from dataclasses import replace

import cv2
import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.core.types import View
from jaxvid.data import decode, sources
from jaxvid.data.config import DataConfig
from jaxvid.data.decode import VideoError
from jaxvid.data.images import EncodedFrames, FrameFolder
from jaxvid.data.pipeline import describe, make_eval_batches, make_train_batches
from jaxvid.data.sources import SOURCES, IndexCache, make_source
from tests.data.videos import numbered_frames, write_video


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


@pytest.fixture
def clips() -> list[np.ndarray]:
    return [numbered_frames(12) // 2 + 20 * i for i in range(3)]


@pytest.fixture
def frames(tiny, clips, tmp_path):
    lines = ["path,label,split"]
    for i, clip in enumerate(clips):
        (tmp_path / f"c{i}").mkdir()
        for t, image in enumerate(clip):
            (tmp_path / f"c{i}" / f"{t + 1}.png").write_bytes(png(image))
        lines.append(f"c{i},n{i},test")
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    return replace(tiny, source="frames", manifest=str(tmp_path / "m.csv"), short_side=-1)


@pytest.fixture
def tfds_data(tiny, clips, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")

    class Clips(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        url_infos: typing.ClassVar[dict] = {}

        def _info(self):
            features = {
                "video": tfds.features.Sequence(tfds.features.Text()),
                "label": tfds.features.ClassLabel(names=["n0", "n1", "n2"]),
            }
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features), description="clips"
            )

        def _split_generators(self, manager):
            return {"test": self._generate_examples()}

        def _generate_examples(self):
            for i, clip in enumerate(clips):
                yield i, {"video": [png(image) for image in clip], "label": i}

    Clips(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    return replace(tiny, source="tfds", manifest="clips", root=str(tmp_path), short_side=-1)


@pytest.fixture
def tfds_folder(tfds_data, tmp_path):
    """The same data set, without the class that made it."""
    return replace(tfds_data, manifest=str(tmp_path / "clips" / "1.0.0"), root="")


@pytest.mark.parametrize("kind", ["frames", "tfds_data", "tfds_folder"])
def test_sources_of_images_give_the_same_clips(kind, clips, request):
    data = request.getfixturevalue(kind)
    info = describe(data, "test")
    assert info.num_examples == 3
    assert info.class_names == ("n0", "n1", "n2")
    source = make_source(data, "test")
    read = {}
    for i in range(3):
        record = source[i]
        assert record.video.num_frames() == 12
        read[record.label] = record.video.read(np.array([11, 0, 3, 3]), 0)
    for label, clip in enumerate(clips):
        np.testing.assert_array_equal(read[label], clip[[11, 0, 3, 3]])
    (batch,) = make_eval_batches(data, {"video": View()}, "test", batch_size=3)
    assert sorted(batch["label"].tolist()) == [0, 1, 2]
    train = make_train_batches(
        replace(data, train_split="test"), {"video": View()}, seed=0, global_batch=3, num_steps=1
    )
    assert next(train)["video"].shape == (3, 4, 16, 16, 3)


def test_every_source_of_the_table_is_a_choice_of_the_config(tiny):
    assert set(typing.get_args(typing.get_type_hints(DataConfig)["source"])) == set(SOURCES)
    with pytest.raises(ConfigError, match=r"config\.data\.manifest is empty"):
        describe(replace(tiny, source="video"), "train")


def test_what_tfds_does_not_have(tfds_data, tfds_folder, tmp_path):
    for data in (tfds_data, tfds_folder):
        with pytest.raises(ConfigError, match=r"\(clips/1\.0\.0\): no split 'train'.*test"):
            make_source(data, "train")
        with pytest.raises(ConfigError, match="subset needs a manifest"):
            make_source(replace(data, subset=0.5), "test")
    for manifest in (str(tmp_path), "packd"):
        with pytest.raises(ConfigError, match=r"neither a folder with .* nor a TFDS name"):
            make_source(replace(tfds_folder, manifest=manifest), "test")
    with pytest.raises(ConfigError, match=r"=s3://b/packed: shards are read from folders and"):
        make_source(replace(tfds_folder, manifest="s3://b/packed"), "test")


def test_label_above_num_classes(frames):
    with pytest.raises(ConfigError, match=r"label 2 .*num_classes is 2"):
        make_source(replace(frames, num_classes=2), "test")


def test_subset_of_the_training_split_only(tiny, cache_dir):
    data = replace(tiny, subset=0.5)
    assert describe(data, "train").num_examples == 10
    assert describe(data, "test").num_examples == 10
    lists = list((cache_dir / "subsets").glob("manifest-train-0.5-seed0-*.txt"))
    assert len(lists) == 1
    assert len(lists[0].read_text().splitlines()) == 10


def test_bad_images_are_video_errors(tmp_path):
    with pytest.raises(VideoError, match="frame 1 is not an image"):
        EncodedFrames("x", (png(numbered_frames(1)[0]), b"junk")).read(np.array([1]), 0)
    with pytest.raises(VideoError, match="no such folder"):
        FrameFolder(str(tmp_path / "none")).num_frames()
    with pytest.raises(VideoError, match="holds no images"):
        FrameFolder(str(tmp_path)).num_frames()
    (tmp_path / "1.png").write_bytes(png(numbered_frames(1)[0]))
    (tmp_path / "2.png").write_bytes(png(numbered_frames(1, 30, 20)[0]))
    with pytest.raises(VideoError, match="differ in size"):
        FrameFolder(str(tmp_path)).read(np.array([0, 1]), 0)


def test_indexes_are_read_once_while_there_is_room(tmp_path, monkeypatch):
    paths = [str(write_video(tmp_path / f"{n}.mp4", numbered_frames(n))) for n in (20, 15, 10)]
    seen = []
    monkeypatch.setattr(sources, "probe", lambda path: seen.append(path) or decode.probe(path))
    cache = IndexCache(frames=32)
    for _ in range(2):
        assert [cache(path).num_frames for path in paths] == [20, 15, 10]
    assert seen == [*paths, paths[1]]  # 15 more don't fit, 10 do
    write_video(paths[0], numbered_frames(30))
    assert [cache(paths[0]).num_frames for _ in range(2)] == [30, 30]
    assert len(seen) == 5


def test_short_side_of_images(frames):
    video = make_source(frames, "test")[0].video
    assert video.read(np.array([0]), 24).shape == (1, 24, 32, 3)
    assert video.read(np.array([0]), 100).shape == (1, 48, 64, 3)
