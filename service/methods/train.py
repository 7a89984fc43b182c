"""The use case: one task's examples become a vector that can be registered, found and held to its figures."""

from __future__ import annotations

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
from vlibrary.formats.artifact import encode
from vlibrary.formats.card import dump_card
from vlibrary.methods.base import Method, TaskData, split_examples
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.features import embed_examples
from vlibrary.training.keys import centres, task_keys, thresholds
from vlibrary.training.progress import Report, silent


@dataclass(frozen=True)
class Trained:
    """A vector and its card: keys, thresholds and measured results."""

    vector: SteeringVector
    card: VectorCard


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
    report: Report = silent,
) -> Trained:
    """Make the vector of one task and measure it on examples that it never saw.

    method: M²IV with its defaults when None. test: the examples to measure on; None holds some of `examples` back.
    folder: where an interrupted run leaves its state for a repeat of the call. Raises InvalidCard (the name),
    InvalidExamples, InvalidSettings, PromptTooLong, TrainingDiverged.
    """
    method = method or M2iv()
    card = VectorCard(name, description)  # first, so that a wrong name costs no training
    data = split_examples(examples, seed, test)
    started = time.perf_counter()
    features = embed_examples(embedder, data.train, report)
    vector = method.fit(data, features, lvlm, seed=seed, folder=folder, report=report)
    seconds = time.perf_counter() - started
    middles = centres(features, seed)
    card = replace(
        card,
        embedder=embedder.spec.fingerprint,
        keys=task_keys(middles),
        thresholds=thresholds(middles, embed_examples(embedder, data.validation, report)),
        results=_results(data, vector, lvlm, method.shots, seed, report) | {"seconds": round(seconds, 1)},
    )
    return Trained(vector, card)


def save_trained(trained: Trained, folder: Path) -> tuple[Path, Path]:
    """Write <name>.safetensors and <name>.card.json, which `POST /vectors` takes; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    artifact = folder / f"{trained.card.name}.safetensors"
    card = folder / f"{trained.card.name}.card.json"
    artifact.write_bytes(encode(trained.vector))
    card.write_text(dump_card(trained.card), encoding="utf-8")
    return artifact, card


def _results(
    data: TaskData, vector: SteeringVector, lvlm: Lvlm, shots: int, seed: int, report: Report
) -> dict[str, Any]:
    """Accuracies on data.test: unsteered, with `shots` demonstrations of data.train in the prompt, and steered."""
    engine = StaticGenerator(lvlm)
    return {
        "zero_shot": icl_accuracy(engine, data.test, (), 0, seed, report),
        "n_shot": icl_accuracy(engine, data.test, data.train, shots, seed, report),
        "steered": steered_accuracy(engine, data.test, vector, report),
        "shots": shots,
        "test_examples": len(data.test),
        "seed": seed,
        "losses": vector.training.get("losses", {}),
    }
