import json
from dataclasses import dataclass

import numpy as np
import pytest

from configs.common import evals as eval_configs
from configs.common.models import vit
from jaxvid.core.config import ConfigError
from jaxvid.core.method import Method
from jaxvid.data.config import DataConfig
from jaxvid.evals import EVALS
from jaxvid.evals.features import TokenStore, token_grid
from jaxvid.evals.knn import Knn
from jaxvid.evals.run import check_evals, due, format_table, make_evaluators, run_evals
from jaxvid.methods import make_method
from tests.evals.fakes import FakeLoader, PixelMethod, constant_clips, make_context

KINDS = tuple(name for name, cls in EVALS.items() if hasattr(PixelMethod, cls.needs))


@pytest.fixture
def loader(monkeypatch):
    rng = np.random.default_rng(0)
    splits = {}
    for name, n in (("train", 24), ("test", 10)):
        label = np.arange(n) % 2
        x = np.where(label[:, None] == 0, [180, 40, 90, 90], [40, 180, 90, 90])
        splits[name] = (constant_clips(x + rng.integers(0, 20, x.shape)), label)
    return FakeLoader(splits).install(monkeypatch)


def test_every_evaluator_runs_from_its_config_and_writes(loader, tmp_path):
    config = eval_configs.frozen(kinds=KINDS)
    config.linear.min_steps = config.attentive.min_steps = 5
    config.linear.epochs = config.attentive.epochs = 1.0
    config.reconstruction.rho = 0.5
    rows = run_evals(config, make_context(), 7, tmp_path)
    assert [r["eval"] for r in rows] == list(config)
    assert loader.calls.count("train") == 1
    written = [json.loads(line) for line in (tmp_path / "evals.jsonl").open()]
    assert written == rows
    for row in rows:
        assert row["step"] == 7
        assert row["weights"] == "raw"
        assert np.isfinite(list(row["metrics"].values())).all()
        with np.load(tmp_path / "evals" / "7" / f"{row['eval']}-raw.npz") as file:
            np.testing.assert_array_equal(np.sort(file["index"]), np.arange(10))
            if row["eval"] in ("knn", "retrieval", "linear", "attentive"):
                assert file["correct"].shape == (10,)
    text = format_table(rows)
    assert {row["videos"] for row in rows} == {10}
    assert text.endswith("examples judged: 10")
    assert "R@1" in text
    assert "chance" in text.splitlines()[0]
    # Chance of a ranking at random with more than five classes.
    rows = [{"eval": "a", "weights": "raw", "metrics": {"top5": 30.0, "chance": 10.0}}]
    assert format_table(rows).splitlines()[1].split()[-2:] == ["30.00", "50.00"]
    assert " 50.00" in next(line for line in text.splitlines() if "top1_k1 " in line)


def test_only_evaluators_of_these_weights_run(loader, tmp_path):
    config = {"a": {"type": "knn", "weights": ("ema",)}, "b": {"type": "spread"}}
    assert [r["eval"] for r in run_evals(config, make_context(), 0, None, "ema")] == ["a"]
    assert [r["eval"] for r in run_evals(config, make_context(), 0, None, "raw")] == ["b"]
    assert not list(tmp_path.iterdir())


def test_unreadable_videos_stand_in_the_row_and_below_the_table(loader):
    loader.unread = (2,)
    rows = run_evals({"spread": {}}, make_context(), 0, None)
    assert rows[0]["unreadable"] == {"test": 1}
    assert "1 unreadable videos of 'test'" in format_table(rows)


def test_the_name_of_a_group_may_differ_from_its_type():
    found = make_evaluators({"one": {"type": "knn", "k": 1}, "knn": {}})
    assert found == {"one": Knn(k=1), "knn": Knn()}


def test_unknown_names_are_refused_where_they_stand():
    with pytest.raises(ConfigError, match=r"config\.evals\.x\.type: unknown 'kn'.*'knn'"):
        make_evaluators({"x": {"type": "kn"}})
    with pytest.raises(ConfigError, match=r"config\.evals\.knn\.kk"):
        make_evaluators({"knn": {"kk": 3}})
    with pytest.raises(ConfigError, match=r"config\.evals\.knn\.weights: unknown 'avg'"):
        make_evaluators({"knn": {"weights": ("avg",)}})


def test_start_up_refuses_what_the_run_cannot_give(monkeypatch):
    with pytest.raises(ConfigError, match=r"config\.ema is 0"):
        check_evals({"knn": {"weights": ("raw", "ema")}}, PixelMethod(), has_ema=False)
    assert check_evals({"knn": {"weights": ("ema",)}}, PixelMethod(), has_ema=True)
    unlabelled = (constant_clips([[1]]), np.array([-1]))
    FakeLoader({"train": unlabelled, "test": unlabelled}).install(monkeypatch)
    with pytest.raises(ConfigError, match=r"config\.evals\.knn: split 'train'.*no labels"):
        check_evals({"spread": {}, "knn": {}}, PixelMethod(), False, DataConfig())

    @dataclass(frozen=True)
    class Plain(Method):
        coupling = "none"

    with pytest.raises(ConfigError, match="Plain has no 'reconstruct'"):
        check_evals({"reconstruction": {}}, Plain(), has_ema=False)
    for name, fields in (("attentive", {}), ("knn", {"pool": "change"})):
        with pytest.raises(ConfigError, match=rf"config\.evals\.{name}\.windows: reads tokens"):
            check_evals({name: {**fields, "windows": True}}, PixelMethod(), has_ema=False)


@pytest.mark.parametrize("views", [{"clips": 2}, {"crops": 3}, {"windows": True}])
def test_evaluators_of_one_clip_refuse_other_views(views):
    @dataclass(frozen=True)
    class Masked(Method):
        coupling = "none"

        def reconstruct(self):
            """Only its name is asked for."""

    with pytest.raises(ConfigError, match="reads one clip of every video"):
        check_evals({"reconstruction": views}, Masked(), has_ema=False)


def test_start_up_refuses_token_tables_that_will_not_fit(loader):
    method, data = make_method({"name": "videomae", "encoder": vit("tiny")}), DataConfig(size=32)
    grid = token_grid(method, data)
    assert grid == (8, 4, 4, method.encoder.width)
    gigabytes = 24 * np.prod(grid) * 2 / 1e9
    check_evals({"attentive": {}}, method, False, data, TokenStore(gigabytes))
    with pytest.raises(ConfigError, match=r"config\.evals\.attentive, split 'train'"):
        check_evals({"attentive": {"clips": 2}}, method, False, data, TokenStore(gigabytes))


def test_tokens_are_kept_for_those_who_read_them(loader):
    context = make_context()
    run_evals({"attentive": {"min_steps": 1}, "spread": {"clips": 2}}, context, 0, None)
    kept = {key: table.tokens is not None for key, table in context.cache.items()}
    assert kept == {
        ("train", 1, 1, False): True,
        ("test", 1, 1, False): True,
        ("test", 2, 1, False): False,
    }


@pytest.mark.parametrize(
    "period, before, after, expected",
    [(2, 1.9, 2.0, True), (2, 2.0, 2.1, False), (0.5, 0.9, 1.6, True), (0, 0.9, 1.0, False)],
)
def test_due_once_per_period(period, before, after, expected):
    assert bool(due({"knn": Knn(every_epochs=float(period))}, before, after, False)) is expected


def test_a_period_is_met_exactly_once_over_a_run():
    steps = 7
    at = [
        i
        for i in range(3 * steps)
        if due({"k": Knn(every_epochs=1.0)}, i / steps, (i + 1) / steps, False)
    ]
    assert at == [6, 13, 20]
    assert due({"k": Knn()}, 0.1, 0.2, last=True)
