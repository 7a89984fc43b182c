"""The use case "train" in a few steps: few examples, self-labelling, interruptions, and data that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from vlibrary.bundled import EMBEDDER_FOLDER, LVLM_FOLDER
from vlibrary.bundled.tasks import examples, task
from vlibrary.cli.train import NOT_BETTER, train
from vlibrary.domain.errors import PromptTooLong
from vlibrary.domain.example import Example
from vlibrary.domain.query import Modality, Query
from vlibrary.formats.artifact import decode
from vlibrary.formats.card import parse_card
from vlibrary.methods.m2iv.config import M2ivConfig
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.methods.train import Trained, train_vector
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.calibration import find_by
from vlibrary.training.errors import InvalidExamples
from vlibrary.training.examples import write_examples
from vlibrary.training.features import embed_examples
from vlibrary.training.forward import to_prompt
from vlibrary.training.progress import Progress

TASK = task("colour-code")
CONFIG = M2ivConfig(steps=2, validate_every=1, checkpoint_every=1, batch_size=4)


@pytest.fixture(scope="module")
def models() -> tuple[Lvlm, Embedder]:
    return Lvlm.load(LVLM_FOLDER), Embedder.load(EMBEDDER_FOLDER)


@pytest.fixture(scope="module")
def ten() -> list[Example]:
    return examples(TASK, "train", 10, seed=0)


def _train(models: tuple[Lvlm, Embedder], given: Sequence[Example], **more: Any) -> Trained:
    lvlm, embedder = models
    options: dict[str, Any] = {"name": "colour", "method": M2iv(CONFIG), "strengths": (1.0,)} | more
    return train_vector(given, lvlm=lvlm, embedder=embedder, **options)


@pytest.fixture(scope="module")
def whole(models: tuple[Lvlm, Embedder], ten: list[Example]) -> Trained:
    return _train(models, ten)


def test_ten_examples_are_enough_and_set_the_number_of_shots(whole: Trained) -> None:
    results = whole.card.results
    assert (results["shots"], results["queries"], results["test_examples"]) == (6, 7, 2)
    assert results["intervals"]["steered"][0] <= results["steered"] <= results["intervals"]["steered"][1]
    assert [len(shares) for shares in results["norm_shares"].values()] == [4, 4]


def test_more_shots_than_the_examples_allow_are_refused_with_the_limit(
    models: tuple[Lvlm, Embedder], ten: list[Example]
) -> None:
    with pytest.raises(InvalidExamples, match="at most 6 shots"):
        _train(models, ten, method=M2iv(replace(CONFIG, shots=7)))


def test_a_vector_can_be_trained_on_the_models_own_answers(
    models: tuple[Lvlm, Embedder], ten: list[Example], tmp_path: Path
) -> None:
    questions = [Query(each.question, (each.image,)) for each in examples(TASK, "train", 24, seed=1)]
    results = _train(models, ten, unlabelled=questions).card.results
    assert results["self_labelled"]
    assert results["compared_with"] == "the prompt's answers"
    assert (results["shots"], results["queries"], results["test_examples"]) == (10, 17, 5)
    assert results["weights"] == {"mimicry": 1.0, "synergistic": 0.0, "supervised": 0.0}
    assert results["n_shot"] > 0.6  # the prompt agrees with its own answers
    measured = _train(models, ten, unlabelled=questions, test=examples(TASK, "test", 4, seed=1)).card.results
    assert (measured["compared_with"], measured["test_examples"]) == ("labels", 4)
    with pytest.raises(InvalidExamples, match="2 images of the test set are among the training examples"):
        _train(models, ten, unlabelled=questions, test=[*ten[:2], *examples(TASK, "test", 4, seed=1)])
    with pytest.raises(InvalidExamples, match="Got 9 unlabelled questions"):
        _train(models, ten, unlabelled=questions[:9])


def test_the_calibration_counts_validation_queries_too(models: tuple[Lvlm, Embedder], ten: list[Example]) -> None:
    embedder = models[1]
    queries = embed_examples(embedder, ten)
    other = embed_examples(embedder, examples(task("digit-code"), "train", 5, seed=0))
    alone, together = (find_by(embedder, queries, rows)["calibration"] for rows in (queries, other))
    for part in (Modality.IMAGE, Modality.TEXT):
        assert together[part].own < alone[part].own
        assert together[part].unrelated == alone[part].unrelated


@pytest.mark.parametrize("stage", ["measure", "teacher", "train", "strengths"])
def test_an_interruption_leaves_a_whole_vector_or_none_and_is_resumed(
    models: tuple[Lvlm, Embedder], ten: list[Example], whole: Trained, tmp_path: Path, stage: str
) -> None:
    def cut(progress: Progress) -> None:
        if progress.stage == stage:
            raise KeyboardInterrupt

    out, state = tmp_path / "out", tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        _train(models, ten, folder=state, out=out, report=cut)
    if stage == "strengths":
        assert decode((out / "colour.safetensors").read_bytes()) == whole.vector
        card = parse_card((out / "colour.card.json").read_text(encoding="utf-8"))
        assert card.keys
        assert "steered" not in card.results
    else:
        assert not out.exists()
    assert not list(tmp_path.rglob("*.part"))
    assert _train(models, ten, folder=state).vector == whole.vector


def test_a_prompt_that_does_not_fit_is_found_before_training(models: tuple[Lvlm, Embedder]) -> None:
    wordy = [replace(each, question=each.question + " hue" * 60) for each in examples(TASK, "train", 32, seed=0)]
    stages: list[str] = []
    with pytest.raises(PromptTooLong, match="The prompt with 16 demonstrations does not fit") as caught:
        _train(models, wordy, report=lambda progress: stages.append(progress.stage))
    assert stages == []
    fitting = re.search(r"about (\d+) fit", caught.value.cure or "")
    assert fitting is not None
    shots = int(fitting[1])
    lvlm = models[0]
    lvlm.encode([to_prompt(wordy[0], wordy[1 : 1 + shots])], max_new_tokens=32)
    with pytest.raises(PromptTooLong):
        lvlm.encode([to_prompt(wordy[0], wordy[1 : 3 + shots])], max_new_tokens=32)


def test_an_answer_longer_than_the_context_is_named(models: tuple[Lvlm, Embedder], ten: list[Example]) -> None:
    long = [*ten[:9], replace(ten[9], answer="wug " * 1100)]
    with pytest.raises(InvalidExamples, match="does not fit the model's context of 1024 tokens") as caught:
        _train(models, long)
    assert ten[9].question in caught.value.detail


def test_a_prompt_that_answers_every_question_alike_is_refused(
    models: tuple[Lvlm, Embedder], ten: list[Example]
) -> None:
    same = [replace(each, answer="wug") for each in ten]
    questions = [Query(each.question, (each.image,)) for each in examples(TASK, "train", 12, seed=1)]
    with pytest.raises(InvalidExamples, match="answers all 12 unlabelled questions with 'wug'"):
        _train(models, same, unlabelled=questions)


def test_the_command_fails_for_a_vector_that_does_not_help(
    ten: list[Example], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jsonl = write_examples(ten, tmp_path)
    options: dict[str, Any] = {"name": "colour", "out": tmp_path, "steps": 1, "sweep": False}
    with pytest.raises(typer.Exit) as stopped:
        train(jsonl, **options)
    assert stopped.value.exit_code == NOT_BETTER
    printed = capsys.readouterr()
    assert "Register it" not in printed.out
    assert "no better than the model without it. It was trained on 7 questions" in " ".join(printed.err.split())
    assert (tmp_path / "colour.card.json").exists()
    train(jsonl, **options, force=True)
