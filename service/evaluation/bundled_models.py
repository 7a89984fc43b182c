"""Evaluation of the two bundled models, through their saved weights and processors, as any hub model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vlibrary.bundled import EMBEDDER_FOLDER, LVLM_FOLDER, LVLM_ID
from vlibrary.bundled.tasks import TASKS, Task, examples
from vlibrary.domain.query import Modality
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import icl_accuracy
from vlibrary.evaluation.report import SHOTS, BundledReport, TaskCurve
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm, flush_denormals
from vlibrary.training.features import embed_examples
from vlibrary.training.keys import best_scores, choose_exemplars
from vlibrary.training.progress import Progress, Report, ignore

PER_TASK = 100
SUPPORT = 400
KEY_QUERIES = 100


def load_bundled_models() -> tuple[Lvlm, Embedder]:
    """Load both models on the CPU, and limit torch to one thread.

    The models are too small to gain from more threads. `flush_denormals` sets one thread only: with two threads, the
    demo took ten minutes instead of 95 s.
    """
    flush_denormals()
    torch.set_num_threads(1)
    return Lvlm.load(LVLM_FOLDER, model_id=LVLM_ID), Embedder.load(EMBEDDER_FOLDER)


def measure(
    lvlm: Lvlm,
    embedder: Embedder,
    per_task: int = PER_TASK,
    *,
    tasks: Sequence[Task] = TASKS,
    seed: int = 0,
    report: Report = ignore,
) -> BundledReport:
    """Measure every task at every shot count on `per_task` unseen images, and how often queries find their task.

    Takes about 1½ minutes on two cores with the defaults.
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
    """Return the share of unseen image + text queries whose best task key belongs to their own task.

    The keys are computed from training queries only. The figure is meaningful because no two bundled tasks ask the
    same questions about the same kind of image.
    """
    keys = [choose_exemplars(embed_examples(embedder, examples(task, "train", KEY_QUERIES, seed))) for task in tasks]
    correct = 0
    for number, task in enumerate(tasks):
        queries = embed_examples(embedder, examples(task, "test", per_task, seed))
        scores = np.stack([best_scores(task_keys, queries)[Modality.IMAGE_TEXT] for task_keys in keys])
        correct += int((scores.argmax(axis=0) == number).sum())
    return correct / (per_task * len(tasks))


def _curve(engine: StaticGenerator, task: Task, per_task: int, seed: int) -> TaskCurve:
    queries, support = examples(task, "test", per_task, seed), examples(task, "train", SUPPORT, seed)
    return TaskCurve(
        name=task.name,
        held_out=task.held_out,
        attribute=task.attribute,
        zero_shot=icl_accuracy(engine, queries, (), 0, seed),
        shots={shots: icl_accuracy(engine, queries, support, shots, seed) for shots in SHOTS},
    )


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
