"""The demo run: train vectors, register them over HTTP, and let each query retrieve and apply the right one.

The run starts a fresh service, trains from examples on disk, and measures every figure on requests with images that
training never saw.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from rich.console import Console
from rich.progress import Progress as Bars

from vlibrary.cli.demo.report import Arm, DemoReport, Sample, TaskResult
from vlibrary.cli.demo.service_process import running_service
from vlibrary.cli.demo.subject import SHOTS, Subject, Task
from vlibrary.client import Client
from vlibrary.config import BUNDLED, read_settings
from vlibrary.domain.example import Example
from vlibrary.evaluation.accuracy import is_correct
from vlibrary.formats.artifact import encode
from vlibrary.formats.card import dump_card
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.methods.train import Trained, train_vector
from vlibrary.schemas.generate import GenerateOut
from vlibrary.training.examples import read_examples, write_examples
from vlibrary.training.progress import Bar, Progress, progress_bars
from vlibrary.worker.bootstrap import open_embedder, open_lvlm


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


def run_demo(console: Console, subject: Subject, *, queries: int = 60, seed: int = 0) -> DemoReport:
    """Train, register and evaluate. queries: unseen images per task."""
    started = time.perf_counter()
    settings = {"VLIBRARY_LVLM": subject.lvlm, "VLIBRARY_DTYPE": subject.dtype, "VLIBRARY_EMBEDDER": BUNDLED}
    with TemporaryDirectory(prefix="vlibrary-demo-") as folder, progress_bars(console) as bars:
        starting = Bar(bars, f"start the service with {subject.lvlm}")
        with running_service(Path(folder), settings) as service:
            starting.finish(service.url)
            training = []
            for each in subject.tasks:  # through the files that `vlibrary train` reads
                path = Path(folder) / each.name
                drawn = subject.draw(each, "train", subject.examples, seed)
                training.append(read_examples(write_examples(drawn, path), path))
            _register_vectors(service, subject, training, bars, seed)
            tests = [subject.draw(each, "test", queries, seed) for each in subject.tasks]
            replies = [
                _Comparison(service, support, subject.max_new_tokens, seed).run(
                    test, Bar(bars, f"evaluate {each.name}")
                )
                for each, test, support in zip(subject.tasks, tests, training, strict=True)
            ]
    results = []
    for each, arms in zip(subject.tasks, replies, strict=True):
        hits = [each.name in {one.name for one in reply.answer.steering.applied} for reply in arms.steered]
        results.append(
            TaskResult(each.name, _arm(arms.zero_shot), _arm(arms.icl), _arm(arms.steered), hit_rate=fmean(hits))
        )
    return DemoReport(
        model=subject.title,
        tasks=results,
        shots=SHOTS,
        queries=queries * len(subject.tasks),
        sample=_sample(subject.tasks[0].name, tests[0][0], replies[0]),
        seconds=time.perf_counter() - started,
    )


def _register_vectors(
    service: Client, subject: Subject, training: Sequence[list[Example]], bars: Bars, seed: int
) -> None:
    """Register the vectors that were trained in advance, and train the others."""
    untrained = []
    for each, examples in zip(subject.tasks, training, strict=True):
        shipped = subject.vectors and subject.vectors / f"{each.name}.safetensors"
        if shipped and shipped.exists():
            record = service.register(shipped.read_bytes(), shipped.with_suffix(".card.json").read_text())
            Bar(bars, f"{each.name}, trained in advance").finish(f"registered as {record.id}")
        else:
            untrained.append((each, examples))
    for trained, bar in train_vectors(subject, untrained, bars, seed):
        record = service.register(encode(trained.vector), dump_card(trained.card))
        bar.finish(f"registered as {record.id}")


def train_vectors(
    subject: Subject,
    given: Sequence[tuple[Task, Sequence[Example]]],
    bars: Bars,
    seed: int,
    state: Path | None = None,
) -> Iterator[tuple[Trained, Bar]]:
    """Train a vector on the examples of each task, and yield it with its bar. state: folder of checkpoints."""
    if not given:
        return
    settings = read_settings(lvlm=subject.lvlm, dtype=subject.dtype, embedder=BUNDLED)
    lvlm, embedder = open_lvlm(settings), open_embedder(settings)
    for task, examples in given:
        bar = Bar(bars, f"train {task.name}")
        trained = train_vector(
            examples,
            name=task.name,
            lvlm=lvlm,
            embedder=embedder,
            description=task.description,
            method=M2iv(subject.config),
            seed=seed,
            folder=state and state / task.name,
            strengths=(),
            report=bar,
        )
        yield trained, bar


@dataclass(frozen=True)
class _Comparison:
    """Sends every query in all three arms, one after the other, so that a busy machine slows all arms alike."""

    service: Client
    support: Sequence[Example]
    max_new_tokens: int
    seed: int

    def run(self, test: Sequence[Example], bar: Bar) -> Replies:
        rng = np.random.default_rng(self.seed)
        replies = Replies([], [], [])
        for number, query in enumerate(test, start=1):
            demonstrations = [self.support[at] for at in rng.choice(len(self.support), SHOTS, replace=False)]
            replies.zero_shot.append(self._generate(query, "off"))
            replies.icl.append(self._generate(query, "off", demonstrations))
            replies.steered.append(self._generate(query, "auto"))
            bar(Progress("images", number, len(test)))
        return replies

    def _generate(
        self, query: Example, steering: Literal["auto", "off"], demonstrations: Sequence[Example] = ()
    ) -> Reply:
        started = time.perf_counter()
        answer = self.service.generate(
            query.question,
            images=[query.image],
            steering=steering,
            demonstrations=demonstrations,
            decoding={"max_new_tokens": self.max_new_tokens},
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
