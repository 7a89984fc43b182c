"""The main job, end to end, on this machine: train vectors, register them over HTTP, let the query find and apply them.

Nothing is prepared: the service is started fresh, the vectors are trained from examples on disk, and every figure
comes from requests for images that no training saw.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from vlibrary.bundled import EMBEDDER_FOLDER, LVLM_FOLDER, LVLM_ID
from vlibrary.bundled.tasks import Task, examples, task
from vlibrary.cli.demo.report import Arm, DemoReport, Sighting, TaskResult
from vlibrary.cli.demo.service_process import running_service
from vlibrary.client import Client
from vlibrary.domain.example import Example
from vlibrary.evaluation.accuracy import is_right
from vlibrary.formats.artifact import encode
from vlibrary.formats.card import dump_card
from vlibrary.methods.m2iv.method import M2iv
from vlibrary.methods.train import train_vector
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm, flush_denormals
from vlibrary.schemas.generate import GenerateOut
from vlibrary.training.examples import read_examples, write_examples
from vlibrary.training.progress import Progress as Report
from vlibrary.training.progress_bars import Bar, bars

# Held-out tasks: their answer conventions never occurred in the bundled model's pretraining.
TASKS = ("colour-code", "count-code", "digit-code", "shape-code-unnamed")
SHOTS = 16
TRAINING_EXAMPLES = 400


@dataclass(frozen=True)
class Reply:
    """One answered request."""

    answer: GenerateOut
    right: bool
    milliseconds: float


def run_demo(console: Console, *, names: Sequence[str] = TASKS, queries: int = 60, seed: int = 0) -> DemoReport:
    """Train, register, ask. queries: unseen images per task."""
    flush_denormals()
    torch.set_num_threads(1)  # two threads took ten minutes instead of 95 s: the flag reaches one thread only
    started = time.perf_counter()
    tasks = [task(name) for name in names]
    with TemporaryDirectory(prefix="vlibrary-demo-") as folder, bars(console) as progress:
        starting = Bar(progress, "start the service")
        with running_service(Path(folder)) as service:
            starting.finish(service.url)
            datasets = {each.name: _dataset(each, Path(folder), seed) for each in tasks}
            _train_and_register(service, tasks, datasets, progress, seed)
            replies = {
                each.name: _ask_all(service, each, datasets[each.name], queries, progress, seed) for each in tasks
            }
    return DemoReport(
        tasks=[_result(name, arms) for name, arms in replies.items()],
        shots=SHOTS,
        queries=queries * len(tasks),
        sighting=_sighting(tasks, queries, replies, seed),
        seconds=time.perf_counter() - started,
    )


def _dataset(each: Task, folder: Path, seed: int) -> list[Example]:
    """The task's training examples, written to disk and read again as `vlibrary train` would."""
    place = folder / each.name
    jsonl = write_examples(examples(each, "train", TRAINING_EXAMPLES, seed), place)
    return read_examples(jsonl, place)


def _train_and_register(
    service: Client, tasks: Sequence[Task], datasets: Mapping[str, list[Example]], progress: Progress, seed: int
) -> None:
    lvlm = Lvlm.load(LVLM_FOLDER, model_id=LVLM_ID)
    embedder = Embedder.load(EMBEDDER_FOLDER)
    for each in tasks:
        bar = Bar(progress, f"train {each.name}")
        trained = train_vector(
            datasets[each.name],
            name=each.name,
            lvlm=lvlm,
            embedder=embedder,
            description=each.description,
            method=M2iv(shots=SHOTS),
            seed=seed,
            report=bar,
        )
        record = service.register(encode(trained.vector), dump_card(trained.card))
        bar.finish(f"registered as {record.id}")


Arms = dict[str, list[Reply]]


def _ask_all(
    service: Client, each: Task, training: Sequence[Example], queries: int, progress: Progress, seed: int
) -> Arms:
    """Every query in the three ways in turn, so that a busy machine slows all of them alike."""
    rng = np.random.default_rng(seed)
    arms: Arms = {"zero_shot": [], "icl": [], "steered": []}
    bar = Bar(progress, f"ask {each.name}")
    for at, query in enumerate(examples(each, "test", queries, seed), start=1):
        shown = [training[at] for at in rng.choice(len(training), SHOTS, replace=False)]
        arms["zero_shot"].append(_ask(service, query, "off", ()))
        arms["icl"].append(_ask(service, query, "off", shown))
        arms["steered"].append(_ask(service, query, "auto", ()))
        bar(Report("unseen images", at, queries))
    return arms


def _ask(service: Client, query: Example, steering: Literal["auto", "off"], shown: Sequence[Example]) -> Reply:
    started = time.perf_counter()
    answer = service.generate(
        query.question,
        images=[query.image],
        steering=steering,
        demonstrations=shown,
        decoding={"max_new_tokens": 4},
    )
    elapsed = 1000 * (time.perf_counter() - started)
    return Reply(answer, is_right(answer.text, query.answer), elapsed)


def _result(name: str, arms: Arms) -> TaskResult:
    hits = [name in {one.name for one in reply.answer.steering.applied} for reply in arms["steered"]]
    zero_shot, icl, steered = (_arm(arms[kind]) for kind in ("zero_shot", "icl", "steered"))
    return TaskResult(name, zero_shot, icl, steered, hits=fmean(hits))


def _arm(replies: Sequence[Reply]) -> Arm:
    return Arm(
        accuracy=fmean(reply.right for reply in replies),
        prompt_tokens=fmean(reply.answer.usage.prompt_tokens for reply in replies),
        milliseconds=median(reply.milliseconds for reply in replies),
    )


def _sighting(tasks: Sequence[Task], queries: int, replies: Mapping[str, Arms], seed: int) -> Sighting:
    """The first picture of the first task: not the best one, just the first."""
    first = tasks[0]
    query = examples(first, "test", queries, seed)[0]
    before, after = (replies[first.name][kind][0].answer for kind in ("zero_shot", "steered"))
    applied = after.steering.applied
    vector = f"{applied[0].name}, found at score {applied[0].score:.3f}" if applied else "none"
    return Sighting(query.image, first.name, query.question, query.answer, before.text, after.text, vector)
