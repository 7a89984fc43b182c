"""M²IV on the bundled models: a short training on a held-out task works, and its card accepts the task's queries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlibrary.bundled import EMBEDDER_FOLDER, LVLM_FOLDER
from vlibrary.bundled.tasks import TASKS, Task, examples, task
from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.matching.calibration import ACCEPTED, normalise, weigh
from vlibrary.domain.query import Query, score_parts
from vlibrary.evaluation.bundled_models import measure
from vlibrary.evaluation.report import SHOTS
from vlibrary.evaluation.strength import STRENGTHS
from vlibrary.formats.artifact import decode
from vlibrary.formats.card import parse_card
from vlibrary.methods.m2iv.config import M2ivConfig
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.methods.train import Trained, save_trained, train_vector
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.features import embed_examples
from vlibrary.training.progress import Progress

SHORT = M2iv(M2ivConfig(shots=8, queries=96, steps=120, validate_every=40))
TASK = task("parity-code")


@pytest.fixture(scope="module")
def lvlm() -> Lvlm:
    return Lvlm.load(LVLM_FOLDER)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.load(EMBEDDER_FOLDER)


@pytest.fixture(scope="module")
def reports() -> list[Progress]:
    return []


@pytest.fixture(scope="module")
def trained(lvlm: Lvlm, embedder: Embedder, reports: list[Progress]) -> Trained:
    return train_vector(
        examples(TASK, "train", 240, seed=0),
        name=TASK.name,
        description=TASK.description,
        lvlm=lvlm,
        embedder=embedder,
        method=SHORT,
        test=examples(TASK, "test", 60, seed=0),
        report=reports.append,
    )


def test_a_short_training_raises_a_held_out_task_far_above_zero_shot(trained: Trained) -> None:
    results = trained.card.results
    assert results["zero_shot"] <= 0.2
    assert results["steered"] >= 0.8
    assert results["test_examples"] == 60
    assert results["shots"] == 8
    assert results["seconds"] > 0


def test_the_card_accepts_new_queries_of_its_task_and_no_others(trained: Trained, embedder: Embedder) -> None:
    trained.card.check_keys(embedder.spec)

    def accepted(of: Task, count: int) -> float:
        queries = [Query(each.question, (each.image,)) for each in examples(of, "test", count, seed=1)]
        return sum(_probability(trained, embedder, query) >= ACCEPTED for query in queries) / count

    assert accepted(TASK, 40) >= 0.9
    assert [accepted(other, 5) for other in TASKS if other != TASK] == [0.0] * (len(TASKS) - 1)
    question = examples(TASK, "test", 1, seed=2)[0].question
    assert _probability(trained, embedder, Query(question)) >= ACCEPTED
    assert _probability(trained, embedder, Query("What is the capital of France?")) < ACCEPTED


def _probability(trained: Trained, embedder: Embedder, query: Query) -> float:
    """The probability of the vector, alone in a library."""
    rows = np.stack([key.embedding.row(embedder.spec) for key in trained.card.keys])
    parts = score_parts(embedder.embed(query), rows, embedder.spec)
    return normalise([weigh(parts, trained.card.calibration)], [trained.card.name])[0]


def test_features_equal_the_embeddings_of_single_queries(embedder: Embedder) -> None:
    asked = examples(TASK, "test", 5, seed=3)
    features = embed_examples(embedder, asked)
    for number, example in enumerate(asked):
        alone = embedder.embed(Query(example.question, (example.image,)))
        assert np.allclose(features.joined[number], alone.row(embedder.spec), atol=1e-5)


def test_saved_files_load_as_the_same_vector_and_card(trained: Trained, tmp_path: Path) -> None:
    artifact, card = save_trained(trained, tmp_path / "deep")
    assert (artifact.name, card.name) == ("parity-code.safetensors", "parity-code.card.json")
    assert decode(artifact.read_bytes()) == trained.vector
    read = parse_card(card.read_text(encoding="utf-8"))
    assert (read.name, read.description, read.embedder) == (
        trained.card.name,
        trained.card.description,
        trained.card.embedder,
    )
    assert dict(read.results) == dict(trained.card.results)
    assert dict(read.thresholds) == dict(trained.card.thresholds)
    assert dict(read.calibration) == dict(trained.card.calibration)
    curves = json.loads((tmp_path / "deep" / "parity-code.training.json").read_text(encoding="utf-8"))
    assert curves == trained.report.as_json() | {"strength_window": list(trained.card.results["strength_window"])}
    with Image.open(tmp_path / "deep" / "parity-code.training.png") as plot:
        assert plot.format == "PNG"


def test_the_report_shows_where_the_vector_works(trained: Trained, lvlm: Lvlm) -> None:
    accuracies = trained.report.accuracies
    low, high = trained.card.results["strength_window"]
    assert list(accuracies) == list(STRENGTHS)
    assert accuracies[0.0] <= 0.3 < 0.7 <= accuracies[1.0]
    assert -1.0 < low <= 1.0 <= high
    assert [len(norms) for norms in trained.report.norms.values()] == [lvlm.spec.layers] * 2
    assert trained.report.curve[-1]["step"] == 120


@pytest.mark.usefixtures("trained")
def test_every_stage_reports_progress_until_it_is_complete(reports: list[Progress]) -> None:
    last = {report.stage: report for report in reports}
    assert list(dict.fromkeys(report.stage for report in reports)) == [
        "measure",
        "embed",
        "teacher",
        "train",
        "strengths",
    ]
    assert all(report.done == report.total for report in last.values())
    assert all(0 < report.done <= report.total for report in reports)


def test_an_invalid_name_fails_before_training(lvlm: Lvlm, embedder: Embedder) -> None:
    with pytest.raises(InvalidCard, match="Invalid name"):
        train_vector([], name="Not A Name", lvlm=lvlm, embedder=embedder)


def test_the_bundled_report_measures_the_shipped_models(lvlm: Lvlm, embedder: Embedder) -> None:
    report = measure(lvlm, embedder, per_task=15, tasks=[TASK, task("half-code")])
    assert [curve.name for curve in report.tasks] == ["parity-code", "half-code"]
    assert all(tuple(curve.shots) == SHOTS for curve in report.tasks)
    assert report.shots[16] > report.zero_shot + 0.4
    assert report.embedder_top1 == 1.0
    assert 1 < report.lvlm_mb < 100
    assert 1 < report.embedder_mb < 100
