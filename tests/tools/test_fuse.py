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


def streams(*tables):
    """Contexts whose evaluations are replaced by ``tables``."""
    data = SimpleNamespace(manifest="videos.csv")
    return [SimpleNamespace(data=data, table=table) for table in tables]


def test_mean_of_probabilities_by_hand(monkeypatch):
    """Either stream is right on one video only; where they disagree the surer one decides."""
    label, index = np.array([0, 1]), np.array([3, 5])
    first = {"probability": np.array([[0.8, 0.2], [0.6, 0.4]]), "label": label, "index": index}
    second = {**first, "probability": np.array([[0.3, 0.7], [0.1, 0.9]])}
    monkeypatch.setattr(fuse.MultiView, "probabilities", lambda self, ctx: ctx.table)
    found = fuse.fuse_classifiers(streams(first, second), clips=1)
    predictions = [result.per_example["prediction"].tolist() for result in found]
    assert predictions == [[0, 0], [1, 1], [0, 1]]
    assert [result.metrics["top1"] for result in found] == [50, 50, 100]


def test_sum_of_similarities_by_hand(monkeypatch):
    """The first stream finds video 0 for the query, the second video 1; the second is surer."""
    label, index = np.array([0, 1]), np.arange(2)
    query = FeatureTable(np.array([[1.0, 0.0]]), label[1:], index[:1])
    banks = np.array([[1.0, 0.2], [0.8, 0.6]]), np.array([[0.0, 5.0], [5.0, 0.0]])
    tables = [(FeatureTable(bank, label, index), query, 2) for bank in banks]
    monkeypatch.setattr(Retrieval, "labelled", lambda self, ctx, where: ctx.table)
    found = fuse.fuse_retrieval(streams(*tables), k=(1,), centre="none", keep=1)
    assert [result.metrics["R@1"] for result in found] == [0, 100, 100]
    # The surer stream comes first: the sum, not the last stream, decides.
    found = fuse.fuse_retrieval(streams(*tables[::-1]), k=(1,), centre="none", keep=1)
    assert [result.metrics["R@1"] for result in found] == [100, 0, 100]


def test_streams_must_fit(runs, capsys):
    with pytest.raises(SystemExit):
        fuse.main([str(runs["one"]), str(runs["moco"])])
    assert "one run is a classifier, the other is not" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        fuse.main([str(runs["one"]), str(runs["two"]), "--weights=mean"])
    assert "no 'mean' weights (it has: raw, ema)" in capsys.readouterr().err
    pair = [SimpleNamespace(data=SimpleNamespace(manifest=name)) for name in ("a", "b")]
    index = np.arange(3)
    fuse.check_same_videos(pair, [index, index], [index, index])
    with pytest.raises(ConfigError, match="different videos: a and b"):
        fuse.check_same_videos(pair, [index, index[::-1]], [index, index])
