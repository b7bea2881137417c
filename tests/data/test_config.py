import pytest
from ml_collections import ConfigDict

from configs.common import data as catalogue
from jaxvid.core.config import ConfigError, from_config
from jaxvid.data.config import DataConfig, cache_folder

FACTS = {  # stride, classes and evaluation split of the published runs
    "ssv2": (2, 174, "val"),
    "k400": (4, 400, "val"),
    "ucf101": (2, 101, "test"),
    "hmdb51": (2, 51, "test"),
}


@pytest.mark.parametrize("name", ["embedded", "videos", *FACTS])
def test_catalogue_builds_and_takes_overrides(name):
    config = getattr(catalogue, name)(size=112, prefetch_mb=64)
    assert isinstance(config, ConfigDict)
    data = from_config(DataConfig, config, "config.data")
    assert (data.size, data.prefetch_mb, data.frames) == (112, 64, 16)
    if name in FACTS:
        assert (data.stride, data.num_classes, data.eval_split) == FACTS[name]
        assert data.source == "video"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"size": 0}, r"config\.data\.size: 0"),
        ({"subset": 0.0}, r"config\.data\.subset: 0\.0, must be in \(0, 1\]"),
        ({"max_bad": 1.5}, r"config\.data\.max_bad"),
        ({"workers": -1}, r"config\.data\.workers: -1"),
        ({"source": "videos"}, r"config\.data\.source: got 'videos'; did you mean 'video'"),
        ({"embedded_size": 65}, r"config\.data\.embedded_size: 65, must be at least 16 and even"),
        ({"manifst": "x"}, r"config\.data\.manifst: no such field; did you mean 'manifest'"),
    ],
)
def test_wrong_values_name_the_field(fields, message):
    with pytest.raises(ConfigError, match=message):
        from_config(DataConfig, fields, "config.data")


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXVID_CACHE", str(tmp_path / "a"))
    assert cache_folder(DataConfig()) == tmp_path / "a"
    assert cache_folder(DataConfig(cache_dir=str(tmp_path / "b"))) == tmp_path / "b"
