"""Late fusion of two stored runs on embedded videos, against what the parts say."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxvid.core.config import ConfigError
from jaxvid.evals.features import FeatureTable
from jaxvid.evals.retrieval import Retrieval
from jaxvid.tools import fuse
from tests.stored import save_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cache_dir):
    """Two classifiers and a pretrained network; fresh weights of different seeds."""
    jobs = {"one": ("finetune_s3d_ucf101", 0), "two": ("finetune_s3d_ucf101", 1),
            "moco": ("infonce_ucf101", 0), "other": ("infonce_ucf101", 1)}  # fmt: skip
    folder = tmp_path_factory.mktemp("streams")
    return {k: save_run(folder / k, name, cache_dir, seed=seed) for k, (name, seed) in jobs.items()}


def test_probabilities_are_averaged(runs, tmp_path, capsys):
    out = tmp_path / "both.json"
    fuse.main([str(runs["one"]), str(runs["two"]), "--clips=2", "--windows", f"--out={out}"])
    found = json.loads(out.read_text())
    assert list(found) == [str(runs["one"]), str(runs["two"]), "both"]
    printed = capsys.readouterr().out
    assert f"both - {runs['two']}: " in printed
    # A stream with itself is itself.
    fuse.main([str(runs["one"]), str(runs["one"]), "--clips=2", "--windows", f"--out={out}"])
    again = json.loads(out.read_text())
    assert again["both"] == found[str(runs["one"])]


def test_similarities_are_added(runs, tmp_path):
    out = tmp_path / "both.json"
    fuse.main([str(runs["moco"]), str(runs["moco"]), "--clips=1", f"--out={out}"])
    found = json.loads(out.read_text())
    assert found["both"] == found[str(runs["moco"])]
    assert found["both"]["R@1"] <= found["both"]["R@5"] <= found["both"]["R@10"]


def test_sum_of_similarities_by_hand():
    """The first stream finds video 0 for the query, the second video 1; the second is surer."""
    protocol = Retrieval(k=(1,), centre="none", keep=1)
    train = FeatureTable(np.zeros((2, 2)), np.array([0, 1]), np.arange(2))
    test = FeatureTable(np.zeros((1, 2)), np.array([1]), np.arange(1))
    first, second = np.array([[1.0, 0.2], [0.8, 0.6]]), np.array([[0.0, 5.0], [5.0, 0.0]])
    query = np.array([[1.0, 0.0]])
    alone = protocol.judge(first, query, train, test)
    assert alone.metrics["R@1"] == 0
    banks = np.hstack([np.asarray(fuse.unit(x)) for x in (first, second)])
    both = protocol.judge(banks, np.hstack([query, query]), train, test)
    assert both.metrics["R@1"] == 100


def test_streams_must_fit(runs, capsys):
    with pytest.raises(SystemExit):
        fuse.main([str(runs["one"]), str(runs["moco"])])
    assert "one run is a classifier, the other is not" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        fuse.main([str(runs["one"]), str(runs["two"]), "--weights=mean"])
    assert "--weights=mean: " in capsys.readouterr().err
    streams = [SimpleNamespace(data=SimpleNamespace(manifest=name)) for name in ("a", "b")]
    index = np.arange(3)
    fuse.check_same_videos(streams, [index, index], [index, index])
    with pytest.raises(ConfigError, match="different videos: a and b"):
        fuse.check_same_videos(streams, [index, index[::-1]], [index, index])
