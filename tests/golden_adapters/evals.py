"""Nearest-neighbour retrieval and classification against the public protocols."""

import numpy as np

from jaxvid.evals.knn import nearest, vote
from jaxvid.evals.metrics import accuracy
from jaxvid.evals.retrieval import Retrieval
from tests.golden_fixture import Fixture


def video_retrieval(fixture: Fixture) -> None:
    """Each split centred by its own mean; similarities, neighbours and recall."""
    a = fixture.group("in")
    train, test = Retrieval(centre="split").centred(a["train_feature"], a["test_feature"])
    similarity, row = nearest(test, train, len(train))
    full = np.empty_like(similarity)
    np.put_along_axis(full, row, similarity, axis=1)
    fixture.check("out/similarity", full)
    fixture.check("out/neighbours", row[:, :50])
    hit = a["train_label"][row] == a["test_label"][:, None]
    recall = [accuracy(hit[:, :k].any(axis=1)) / 100 for k in (1, 5, 10, 20, 50)]
    fixture.check("out/recall", recall)


def skeleton_knn(fixture: Fixture) -> None:
    """Majority vote of the nearest neighbours with equal weights."""
    a, classes = fixture.group("in"), fixture.config["classes"]
    for k in fixture.config["nn"]:
        similarity, row = nearest(a["test_feature"], a["train_feature"], k)
        scores = vote(similarity, a["train_label"][row], classes, np.inf)
        prediction = scores.argmax(axis=1)
        fixture.check(f"out/prediction_{k}", prediction)
        fixture.check(f"out/accuracy_{k}", accuracy(prediction == a["test_label"]) / 100)


ADAPTERS = {"video_retrieval": video_retrieval, "skeleton_knn": skeleton_knn}
