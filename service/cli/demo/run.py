"""The demo run: train vectors, register them over HTTP, and let each query retrieve and apply the right one.

The run starts a fresh service, trains from examples on disk, and measures every figure on requests with images that
training never saw.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress as Bars

from vlibrary.bundled.tasks import Task, examples, task
from vlibrary.cli.demo.report import Arm, DemoReport, Sample, TaskResult
from vlibrary.cli.demo.service_process import running_service
from vlibrary.client import Client
from vlibrary.domain.example import Example
from vlibrary.evaluation.accuracy import is_correct
from vlibrary.evaluation.bundled_models import load_bundled_models
from vlibrary.formats.artifact import encode
from vlibrary.formats.card import dump_card
from vlibrary.methods.m2iv.config import M2ivConfig
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.methods.train import train_vector
from vlibrary.schemas.generate import GenerateOut
from vlibrary.training.examples import read_examples, write_examples
from vlibrary.training.progress import Bar, Progress, progress_bars

# Held-out tasks: the bundled model never saw their answer conventions in pretraining.
TASKS = ("colour-code", "count-code", "digit-code", "shape-code-unnamed")
SHOTS = 16
TRAINING_EXAMPLES = 400


@dataclass(frozen=True)
class Reply:
    """The answer to one request, with its time on the client."""

    answer: GenerateOut
    correct: bool
    milliseconds: float


@dataclass(frozen=True)
class Replies:
    """One task's replies per arm, in the order of the test queries."""

    zero_shot: list[Reply]
    icl: list[Reply]
    steered: list[Reply]


def run_demo(console: Console, *, queries: int = 60, seed: int = 0) -> DemoReport:
    """Train, register and evaluate. queries: unseen images per task."""
    started = time.perf_counter()
    tasks = [task(name) for name in TASKS]
    with TemporaryDirectory(prefix="vlibrary-demo-") as folder, progress_bars(console) as bars:
        starting = Bar(bars, "start the service")
        with running_service(Path(folder)) as service:
            starting.finish(service.url)
            training = []
            for each in tasks:  # through the files that `vlibrary train` reads
                path = Path(folder) / each.name
                drawn = examples(each, "train", TRAINING_EXAMPLES, seed)
                training.append(read_examples(write_examples(drawn, path), path))
            _train_and_register(service, tasks, training, bars, seed)
            tests = [examples(each, "test", queries, seed) for each in tasks]
            replies = [
                _evaluate(service, test, support, Bar(bars, f"evaluate {each.name}"), seed)
                for each, test, support in zip(tasks, tests, training, strict=True)
            ]
    results = []
    for each, arms in zip(tasks, replies, strict=True):
        hits = [each.name in {one.name for one in reply.answer.steering.applied} for reply in arms.steered]
        results.append(
            TaskResult(each.name, _arm(arms.zero_shot), _arm(arms.icl), _arm(arms.steered), hit_rate=fmean(hits))
        )
    return DemoReport(
        tasks=results,
        shots=SHOTS,
        queries=queries * len(tasks),
        sample=_sample(tasks[0].name, tests[0][0], replies[0]),
        seconds=time.perf_counter() - started,
    )


def _train_and_register(
    service: Client, tasks: Sequence[Task], training: Sequence[list[Example]], bars: Bars, seed: int
) -> None:
    lvlm, embedder = load_bundled_models()
    for each, given in zip(tasks, training, strict=True):
        bar = Bar(bars, f"train {each.name}")
        trained = train_vector(
            given,
            name=each.name,
            lvlm=lvlm,
            embedder=embedder,
            description=each.description,
            method=M2iv(M2ivConfig(shots=SHOTS)),
            seed=seed,
            strengths=(),
            report=bar,
        )
        record = service.register(encode(trained.vector), dump_card(trained.card))
        bar.finish(f"registered as {record.id}")


def _evaluate(service: Client, test: Sequence[Example], support: Sequence[Example], bar: Bar, seed: int) -> Replies:
    """Send every query in all three arms, one after the other, so that a busy machine slows all arms alike."""
    rng = np.random.default_rng(seed)
    replies = Replies([], [], [])
    for number, query in enumerate(test, start=1):
        demonstrations = [support[at] for at in rng.choice(len(support), SHOTS, replace=False)]
        replies.zero_shot.append(_generate(service, query, "off"))
        replies.icl.append(_generate(service, query, "off", demonstrations))
        replies.steered.append(_generate(service, query, "auto"))
        bar(Progress("images", number, len(test)))
    return replies


def _generate(
    service: Client, query: Example, steering: Literal["auto", "off"], demonstrations: Sequence[Example] = ()
) -> Reply:
    started = time.perf_counter()
    answer = service.generate(
        query.question,
        images=[query.image],
        steering=steering,
        demonstrations=demonstrations,
        decoding={"max_new_tokens": 4},
    )
    elapsed = 1000 * (time.perf_counter() - started)
    return Reply(answer, is_correct(answer.text, query.answer), elapsed)


def _arm(replies: Sequence[Reply]) -> Arm:
    return Arm(
        accuracy=fmean(reply.correct for reply in replies),
        prompt_tokens=fmean(reply.answer.usage.prompt_tokens for reply in replies),
        milliseconds=median(reply.milliseconds for reply in replies),
    )


def _sample(name: str, query: Example, replies: Replies) -> Sample:
    """Return the answers to the first query of the first task: not selected, simply the first."""
    before, after = replies.zero_shot[0].answer, replies.steered[0].answer
    applied = after.steering.applied
    vector = f"{applied[0].name}, retrieved with score {applied[0].score:.3f}" if applied else "none"
    return Sample(query.image, name, query.question, query.answer, before.text, after.text, vector)
