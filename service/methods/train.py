"""The use case "train": one task's examples become a vector with task keys, thresholds and measured results."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlibrary.domain.card import VectorCard
from vlibrary.domain.example import Example
from vlibrary.domain.vector import SteeringVector
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import icl_accuracy, steered_accuracy
from vlibrary.evaluation.strength import STRENGTHS, sweep_strength
from vlibrary.evaluation.training_report import TrainingReport, measure_norms, plot_training
from vlibrary.formats.artifact import encode
from vlibrary.formats.card import dump_card
from vlibrary.methods.base import Method, TaskData, split_examples
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.features import embed_examples
from vlibrary.training.keys import centroids, task_keys, thresholds
from vlibrary.training.progress import Report, ignore


@dataclass(frozen=True)
class Trained:
    """A vector, its card (task keys, thresholds and measured results), and the report of its training."""

    vector: SteeringVector
    card: VectorCard
    report: TrainingReport


def train_vector(
    examples: Sequence[Example],
    *,
    name: str,
    lvlm: Lvlm,
    embedder: Embedder,
    description: str = "",
    method: Method | None = None,
    test: Sequence[Example] | None = None,
    seed: int = 0,
    folder: Path | None = None,
    strengths: Sequence[float] = STRENGTHS,
    report: Report = ignore,
) -> Trained:
    """Train the vector of one task, and measure it on examples that training did not use.

    Raises InvalidCard (for the name), InvalidExamples, InvalidSettings, PromptTooLong, TrainingDiverged.

    Args:
        examples: The task's examples.
        name: Name of the vector.
        lvlm: The frozen model.
        embedder: Computes the task keys.
        description: What the vector does.
        method: The training method; None uses M²IV with its defaults.
        test: Examples to measure on; None holds out some of `examples`.
        seed: Seed of every random choice.
        folder: Where to save state, so that calling again with the same arguments resumes.
        strengths: Where to measure accuracy on the validation examples; 1 must be among them. Empty measures none.
        report: Receives progress reports.
    """
    card = VectorCard(name, description)  # first, so that an invalid name fails before training
    method, data = method or M2iv(), split_examples(examples, seed, test)
    started = time.perf_counter()
    features = embed_examples(embedder, data.train, report)
    fit = method.fit(data, features, lvlm, seed=seed, folder=folder, report=report)
    seconds = round(time.perf_counter() - started, 1)
    keys = centroids(features, seed)
    validation = embed_examples(embedder, data.validation, report)
    limits = thresholds(keys, validation)
    engine = StaticGenerator(lvlm)
    noted = {"truncated_questions": features.truncated + validation.truncated, "seconds": seconds}
    results = _measure(engine, data, fit.vector, method.shots, seed, report) | noted
    accuracies = sweep_strength(engine, data.validation, fit.vector, strengths, report)
    outcome = TrainingReport(name, fit.curve, measure_norms(fit.vector), accuracies)
    if outcome.window:
        results["strength_window"] = list(outcome.window)
    card = replace(card, embedder=embedder.spec.fingerprint, keys=task_keys(keys), thresholds=limits, results=results)
    return Trained(fit.vector, card, outcome)


def _measure(
    engine: StaticGenerator, data: TaskData, vector: SteeringVector, shots: int, seed: int, report: Report
) -> dict[str, Any]:
    return {
        "zero_shot": icl_accuracy(engine, data.test, (), 0, seed, report),
        "n_shot": icl_accuracy(engine, data.test, data.train, shots, seed, report),
        "steered": steered_accuracy(engine, data.test, vector, report),
        "shots": shots,
        "test_examples": len(data.test),
        "seed": seed,
        "losses": vector.training.get("losses", {}),
    }


def save_trained(trained: Trained, folder: Path) -> tuple[Path, Path]:
    """Write <name>.safetensors and <name>.card.json, which `POST /vectors` accepts; return both paths.

    The report of the training is written to <name>.training.json and, as a plot, to <name>.training.png.
    """
    folder.mkdir(parents=True, exist_ok=True)
    artifact = folder / f"{trained.card.name}.safetensors"
    card = folder / f"{trained.card.name}.card.json"
    artifact.write_bytes(encode(trained.vector))
    card.write_text(dump_card(trained.card), encoding="utf-8")
    curves = folder / f"{trained.card.name}.training.json"
    curves.write_text(json.dumps(trained.report.as_json(), indent=1), encoding="utf-8")
    plot_training(trained.report, curves.with_suffix(".png"))
    return artifact, card
