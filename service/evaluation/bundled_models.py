"""`vlibrary bundled`: what the two bundled models can do, through their folders, processors and generate()."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlibrary.bundled import EMBEDDER_FOLDER, LVLM_FOLDER
from vlibrary.bundled.tasks import TASKS, Task, examples
from vlibrary.domain.query import Modality
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import icl_accuracy
from vlibrary.evaluation.report import SHOTS, BundledReport, TaskCurve
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.features import Features, embed_examples
from vlibrary.training.keys import best_scores, centres
from vlibrary.training.progress import Progress, Report, silent

PER_TASK = 100
SUPPORT = 400
KEY_QUERIES = 100


def measure(
    lvlm: Lvlm,
    embedder: Embedder,
    per_task: int = PER_TASK,
    *,
    tasks: Sequence[Task] = TASKS,
    seed: int = 0,
    report: Report = silent,
) -> BundledReport:
    """Accuracy of every task at every shot count on `per_task` unseen images, and how well queries find their task.

    About 1½ minutes on two cores with the defaults.
    """
    engine = StaticGenerator(lvlm)
    curves = []
    for number, task in enumerate(tasks):
        report(Progress("tasks", number, len(tasks)))
        curves.append(_curve(engine, task, per_task, seed))
    report(Progress("tasks", len(tasks), len(tasks)))
    return BundledReport(
        tasks=tuple(curves),
        embedder_top1=embedder_top1(embedder, tasks, per_task, seed),
        lvlm_mb=_megabytes(LVLM_FOLDER),
        embedder_mb=_megabytes(EMBEDDER_FOLDER),
    )


def embedder_top1(embedder: Embedder, tasks: Sequence[Task], per_task: int, seed: int) -> float:
    """Share of unseen image + text queries whose best task key, among those of all tasks, is of their own task.

    Keys come from training queries only. Tasks with the same questions about the same kind of picture could not be
    told apart by anyone; the bundled ones all differ.
    """
    middles = [centres(embed_examples(embedder, examples(task, "train", KEY_QUERIES, seed)), seed) for task in tasks]
    right = 0
    for number, task in enumerate(tasks):
        asked = embed_examples(embedder, examples(task, "test", per_task, seed))
        right += int((_nearest(middles, asked) == number).sum())
    return right / (per_task * len(tasks))


def _curve(engine: StaticGenerator, task: Task, per_task: int, seed: int) -> TaskCurve:
    queries, support = examples(task, "test", per_task, seed), examples(task, "train", SUPPORT, seed)
    return TaskCurve(
        name=task.name,
        held_out=task.held_out,
        attribute=task.attribute,
        zero_shot=icl_accuracy(engine, queries, (), 0, seed),
        shots={shots: icl_accuracy(engine, queries, support, shots, seed) for shots in SHOTS},
    )


def _nearest(middles: Sequence[Features], asked: Features) -> npt.NDArray[np.int64]:
    """Which task's best key each query is nearest to, [N]."""
    scores = [best_scores(task, asked)[Modality.IMAGE_TEXT] for task in middles]
    return np.asarray(np.stack(scores).argmax(axis=0))


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
