"""The use case "train": one task's examples become a vector with task keys, thresholds and measured results."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlibrary.domain.card import VectorCard
from vlibrary.domain.errors import PromptTooLong
from vlibrary.domain.example import Example
from vlibrary.domain.query import Query
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import DECODING, icl_accuracy, steered_accuracy, wilson_interval
from vlibrary.evaluation.strength import STRENGTHS, sweep_strength
from vlibrary.evaluation.training_report import TrainingReport, measure_norms, plot_training
from vlibrary.formats.artifact import encode
from vlibrary.formats.card import dump_card
from vlibrary.methods.base import Fit, Method, TaskData, split_examples
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.methods.self_label import split_self_labelled
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.calibration import find_by
from vlibrary.training.checkpoint import write_atomically
from vlibrary.training.errors import InvalidExamples
from vlibrary.training.features import embed_examples
from vlibrary.training.forward import encode_answers, to_prompt
from vlibrary.training.progress import Report, ignore

_LONGEST = 8


@dataclass(frozen=True)
class Trained:
    """A vector, its card (task keys, calibration and measured results), and the report of its training."""

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
    unlabelled: Sequence[Query] = (),
    seed: int = 0,
    folder: Path | None = None,
    out: Path | None = None,
    strengths: Sequence[float] = STRENGTHS,
    report: Report = ignore,
) -> Trained:
    """Train the vector of one task, and measure it on examples that training did not use.

    The prompts that the vector replaces are measured before training, so that one that does not fit the model's context
    is found then. Raises InvalidCard (for the name), InvalidExamples, InvalidSettings, PromptTooLong, TrainingDiverged.

    Args:
        examples: The task's examples.
        name: Name of the vector.
        lvlm: The frozen model.
        embedder: Computes the task keys.
        description: What the vector does.
        method: The training method; None uses M²IV with its defaults.
        test: Examples to measure on; None holds out some of `examples`.
        unlabelled: Questions with images but without answers. The model answers them with `examples` in its prompt, and
            the vector is trained on these answers; without `test`, it is measured on them too.
        seed: Seed of every random choice.
        folder: Where to save state, so that calling again with the same arguments resumes.
        out: Where to write the vector as soon as it is trained, before it is measured.
        strengths: Where to measure accuracy on the validation examples; 1 must be among them. Empty measures none.
        report: Receives progress reports.
    """
    card = VectorCard(name, description)  # first, so that an invalid name fails before training
    run = _Run(lvlm, embedder, method or M2iv(), seed, report)
    data = run.split(examples, test, unlabelled)
    prompts = run.measure_prompts(data)
    fit, card = run.fit(data, card, folder)
    if out is not None:
        save_vector(fit.vector, card, out)
    return run.measure(data, fit, card, prompts, strengths)


class _Run:
    """The stages of one training."""

    def __init__(self, lvlm: Lvlm, embedder: Embedder, method: Method, seed: int, report: Report) -> None:
        self._lvlm = lvlm
        self._engine = StaticGenerator(lvlm)
        self._embedder = embedder
        self._method = method
        self._seed = seed
        self._report = report

    def split(
        self, examples: Sequence[Example], test: Sequence[Example] | None, unlabelled: Sequence[Query]
    ) -> TaskData:
        if unlabelled:
            return split_self_labelled(self._engine, self._method, examples, unlabelled, self._seed, test, self._report)
        return split_examples(examples, self._seed, test)

    def measure_prompts(self, data: TaskData) -> dict[str, Any]:
        """Return the accuracies without a vector. Raises PromptTooLong with the number of shots that fits."""
        shots, decoding = self._method.shots_for(data), self._decoding(data)
        try:
            n_shot = icl_accuracy(
                self._engine, data.test, data.demonstrations, shots, self._seed, self._report, decoding
            )
        except PromptTooLong as error:
            without, one = (
                self._lvlm.encode([to_prompt(data.test[0], data.demonstrations[:count])]).prompt_tokens[0]
                for count in (0, 1)
            )
            room = self._lvlm.context_length - decoding.max_new_tokens - without
            raise PromptTooLong(
                f"The prompt with {shots} demonstrations does not fit: {error.detail}",
                f"Train with fewer shots; about {max(1, min(shots - 1, room // max(1, one - without)))} fit.",
            ) from error
        zero_shot = icl_accuracy(self._engine, data.test, (), 0, self._seed, self._report, decoding)
        return {"zero_shot": zero_shot, "n_shot": n_shot, "shots": shots}

    def fit(self, data: TaskData, card: VectorCard, folder: Path | None) -> tuple[Fit, VectorCard]:
        """Return the trained vector, and the card with task keys, calibration, and what embedding showed."""
        started = time.perf_counter()
        features = embed_examples(self._embedder, data.train, self._report)
        fit = self._method.fit(data, features, self._lvlm, seed=self._seed, folder=folder, report=self._report)
        seconds = round(time.perf_counter() - started, 1)
        validation = embed_examples(self._embedder, data.validation, self._report)
        results = {"truncated_questions": features.truncated + validation.truncated, "seconds": seconds}
        return fit, replace(card, results=results, **find_by(self._embedder, features, validation))

    def measure(
        self, data: TaskData, fit: Fit, card: VectorCard, prompts: Mapping[str, Any], strengths: Sequence[float]
    ) -> Trained:
        vector, count = fit.vector, len(data.test)
        steered = steered_accuracy(self._engine, data.test, vector, self._report, self._decoding(data))
        accuracies = sweep_strength(self._engine, data.validation, vector, strengths, self._report)
        report = TrainingReport(card.name, fit.curve, measure_norms(vector), accuracies, fit.stream)
        measured = {"zero_shot": prompts["zero_shot"], "n_shot": prompts["n_shot"], "steered": steered}
        recorded = ("losses", "weights", "teacher_p_gold", "queries", "self_labelled")
        results: dict[str, Any] = {
            **prompts,
            **measured,
            "intervals": {
                name: [round(end, 4) for end in wilson_interval(share, count)] for name, share in measured.items()
            },
            "test_examples": count,
            "seed": self._seed,
            **{name: vector.training[name] for name in recorded if name in vector.training},
        }
        if data.support:
            results["compared_with"] = "labels" if data.test_has_labels else "the prompt's answers"
        if report.window:
            results["strength_window"] = list(report.window)
        if report.norm_shares:
            results["norm_shares"] = report.norm_shares
        return Trained(vector, replace(card, results={**card.results, **results}), report)

    def _decoding(self, data: TaskData) -> Decoding:
        """Return decoding options under which the longest answer can be generated.

        Raises InvalidExamples for an example that does not fit the model's context even without demonstrations.
        """
        everything = [*data.train, *data.validation, *data.test, *data.support]
        # Encoding all examples takes as long as a part of the training; the longest are enough.
        by_length = sorted(everything, key=lambda one: len(one.question.encode()) + len(one.answer.encode()))
        longest = 0
        for example in by_length[-_LONGEST:]:
            try:
                longest = max(longest, *encode_answers(self._lvlm, [example]).lengths)
            except PromptTooLong as error:
                raise InvalidExamples(
                    f"The example with the question {example.question!r:.60} and the answer {example.answer!r:.60} "
                    f"does not fit the model's context of {self._lvlm.context_length} tokens, even without "
                    "demonstrations.",
                    "Shorten it, or remove it.",
                ) from error
        return replace(DECODING, max_new_tokens=max(DECODING.max_new_tokens, longest))


def save_trained(trained: Trained, folder: Path) -> tuple[Path, Path]:
    """Write <name>.safetensors and <name>.card.json, which `POST /vectors` accepts; return both paths.

    The report of the training is written to <name>.training.json and, as a plot, to <name>.training.png.
    """
    artifact, card = save_vector(trained.vector, trained.card, folder)
    curves = folder / f"{trained.card.name}.training.json"
    write_atomically(curves, json.dumps(trained.report.as_json(), indent=1).encode())
    plot_training(trained.report, curves.with_suffix(".png"))
    return artifact, card


def save_vector(vector: SteeringVector, card: VectorCard, folder: Path) -> tuple[Path, Path]:
    """Write <name>.safetensors and <name>.card.json, which `POST /vectors` accepts; return both paths."""
    artifact, described = folder / f"{card.name}.safetensors", folder / f"{card.name}.card.json"
    write_atomically(artifact, encode(vector))
    write_atomically(described, dump_card(card).encode())
    return artifact, described
