"""What the demo shows: a model with its tasks, and how the vectors of these tasks are trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from vlibrary.bundled import tasks as toy_tasks
from vlibrary.config import BUNDLED, SMOL_LLAVA
from vlibrary.domain.example import Example
from vlibrary.methods.m2iv.config import M2ivConfig
from vlibrary.models.lvlm import fast_dtype
from vlibrary.smol_llava import VECTORS
from vlibrary.smol_llava import tasks as smol_tasks

SHOTS = 16


class Task(Protocol):
    """An answer convention with a name and a description."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...


@dataclass(frozen=True)
class Subject:
    """A model and what is shown on it.

    lvlm, dtype: as in the settings. title: of the model, in plots. tasks: held out, the model never trained on their
    answer conventions. draw: returns examples of a task, by split, count and seed. examples: labels per task.
    vectors: folder with vectors that were trained in advance; those it lacks are trained by the demo.
    """

    lvlm: str
    dtype: Literal["float32", "bfloat16"]
    title: str
    tasks: Sequence[Task]
    draw: Callable[[Any, Literal["train", "test"], int, int], list[Example]]
    examples: int
    config: M2ivConfig
    max_new_tokens: int
    vectors: Path | None = None


def toy() -> Subject:
    names = ("colour-code", "count-code", "digit-code", "shape-code-unnamed")
    return Subject(
        lvlm=BUNDLED,
        dtype="float32",
        title="bundled toy model",
        tasks=[toy_tasks.task(name) for name in names],
        draw=toy_tasks.examples,
        examples=400,
        config=M2ivConfig(shots=SHOTS),
        max_new_tokens=4,
    )


def smol_llava() -> Subject:
    """Four vectors are shipped; that of parity-code is trained by the demo."""
    names = ("colour-spanish", "count-roman", "shape-sentence", "colour-fruit", "parity-code")
    known = {task.name: task for task in (*smol_tasks.NATURAL, *smol_tasks.CODED)}
    return Subject(
        lvlm=SMOL_LLAVA,
        dtype=fast_dtype(),
        title="SmolLM2-135M with a small vision tower",
        tasks=[known[name] for name in names],
        draw=smol_tasks.examples,
        examples=64,
        # colour-code, 64 labels: 1.00 at this rate after 100 steps; 0.20 at the default rate after 60.
        config=M2ivConfig(shots=SHOTS, steps=100, lr_vectors=0.05, validate_every=10),
        max_new_tokens=16,
        vectors=VECTORS,
    )


SUBJECTS: dict[str, Callable[[], Subject]] = {BUNDLED: toy, SMOL_LLAVA: smol_llava}
