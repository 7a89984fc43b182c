"""Evaluation of smol-llava: conventions learned in context, captions, easy-vqa, and its decoder on text alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from vlibrary.bundled.tasks import encode_png
from vlibrary.domain.wire import Decoding, Demonstration, Prompt
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import draw_prompts, generate_answers
from vlibrary.smol_llava.making.pictures import easy_vqa as read_easy_vqa
from vlibrary.smol_llava.tasks import CODED, NATURAL, TEXTUAL, PictureTask, TextTask, examples, show
from vlibrary.training.progress import Progress, Report, ignore

SHOTS: Final = (0, 1, 2, 4, 8, 16)
SUPPORT: Final = 400
CAPTIONS: Final = 300
# Greedy decoding makes results reproducible; no answer of the tasks has more than 20 tokens.
DECODING: Final = Decoding(max_new_tokens=24)
Question = tuple[Prompt, str]


@dataclass(frozen=True)
class Curve:
    """The share of exact answers of one task, by number of demonstrations. group: natural, code words or text."""

    task: str
    group: str
    accuracy: Mapping[int, float]


@dataclass(frozen=True)
class SmolReport:
    """Results of smol-llava.

    Args:
        curves: One per task.
        caption: Share of drawn scenes whose caption names colour and shape.
        easy_vqa: Accuracy on easy-vqa's test split, without demonstrations; None if it was not measured.
        mb: Size of the weights that the package ships, in 10^6 bytes.
    """

    curves: tuple[Curve, ...]
    caption: float
    easy_vqa: float | None
    mb: float

    def mean(self, group: str) -> dict[int, float]:
        """Return the mean over the tasks of a group, by number of demonstrations."""
        members = [curve.accuracy for curve in self.curves if curve.group == group]
        return {shots: fmean(each[shots] for each in members) for shots in members[0]}

    def as_json(self) -> dict[str, Any]:
        """Return the results as JSON values; `zero_shot` and `shots` are means over the natural conventions."""
        return {
            **_by_shots(self.mean("natural")),
            "easy_vqa": self.easy_vqa,
            "caption": self.caption,
            "code_words": _by_shots(self.mean("code words")),
            "text_only": _by_shots(self.mean("text")),
            "mb": self.mb,
            "tasks": [asdict(curve) | {"accuracy": _with_text_keys(curve.accuracy)} for curve in self.curves],
        }

    def as_table(self) -> Table:
        """Return a table with one row per task, and the means of the groups last."""
        known = "not measured" if self.easy_vqa is None else f"{self.easy_vqa:.3f}"
        caption = f"captions {self.caption:.3f} · easy-vqa without demonstrations {known} · weights {self.mb:.1f} MB"
        table = Table(title="Exact answers on unseen pictures, by number of demonstrations", caption=caption)
        table.add_column("task")
        table.add_column("group")
        for shots in SHOTS:
            table.add_column(str(shots), justify="right")
        for curve in self.curves:
            table.add_row(curve.task, curve.group, *(f"{value:.2f}" for value in curve.accuracy.values()))
        table.add_section()
        for group in dict.fromkeys(curve.group for curve in self.curves):
            cells = (f"{value:.2f}" for value in self.mean(group).values())
            table.add_row("mean", group, *cells, style="bold")
        return table

    def plot(self, figure: Figure) -> None:
        """Draw one panel per group: a line per task, and the mean in black."""
        groups = list(dict.fromkeys(curve.group for curve in self.curves))
        panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for panel, group in zip(panels, groups, strict=True):
            for curve in self.curves:
                if curve.group == group:
                    panel.plot(range(len(SHOTS)), list(curve.accuracy.values()), marker="o", label=curve.task)
            panel.plot(range(len(SHOTS)), list(self.mean(group).values()), color="black", linewidth=3, label="mean")
            panel.set_xticks(range(len(SHOTS)), [str(shots) for shots in SHOTS])
            panel.set(title=group, xlabel="demonstrations in the prompt", ylim=(-0.02, 1.02))
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
        panels[0].set_ylabel("exact answers on unseen pictures")


def measure(
    engine: StaticGenerator,
    per_task: int,
    *,
    easy_vqa: Sequence[Question] = (),
    mb: float,
    seed: int = 0,
    tasks: Sequence[PictureTask] = (*NATURAL, *CODED),
    texts: Sequence[TextTask] = TEXTUAL,
    report: Report = ignore,
) -> SmolReport:
    """Measure every task with `per_task` unseen queries at every number of demonstrations.

    easy_vqa: questions with their answers, see `easy_vqa_questions`; none to leave it out. mb: see SmolReport.
    """
    jobs: list[tuple[str, str, Callable[[int], list[Question]]]] = [
        (each.name, "code words" if each.arbitrary else "natural", partial(_draw_pictures, each, per_task, seed))
        for each in tasks
    ]
    jobs += [(each.name, "text", partial(_draw_texts, each, per_task, seed)) for each in texts]
    curves = []
    for number, (name, group, draw) in enumerate(jobs):
        report(Progress(name, number, len(jobs)))
        curves.append(Curve(name, group, {shots: _accuracy(engine, draw(shots)) for shots in SHOTS}))
    caption = measure_captions(engine, CAPTIONS if per_task >= 50 else per_task, seed)
    known = _accuracy(engine, easy_vqa, report) if easy_vqa else None
    return SmolReport(tuple(curves), caption, known, mb)


def easy_vqa_questions(wheel: Path) -> list[Question]:
    """Return the questions of easy-vqa's official test split, with their answers."""
    split = read_easy_vqa(wheel, "test")
    images = [encode_png(pixels) for pixels in split.pictures.pixels]
    return [(Prompt(question, (images[number],)), answer) for question, answer, number in split.questions]


def measure_captions(engine: StaticGenerator, count: int, seed: int) -> float:
    """Return the share of drawn scenes whose caption, without demonstrations, has the right colour and shape."""
    pictures, facts = show("scene", count, "test", np.random.default_rng([43, seed]))
    prompts = [(Prompt("Describe the picture.", (picture,)), None) for picture in pictures]
    captions = generate_answers(engine, prompts, DECODING)
    named = zip(captions, facts, strict=True)
    return fmean(shown["colour"] in words and shown["shape"] in words for words, shown in named)


def _draw_pictures(task: PictureTask, count: int, seed: int, shots: int) -> list[Question]:
    queries, support = examples(task, "test", count, seed), examples(task, "train", SUPPORT, seed)
    prompts = draw_prompts(queries, support, shots, seed)
    return [(prompt, query.answer) for prompt, query in zip(prompts, queries, strict=True)]


def _draw_texts(task: TextTask, count: int, seed: int, shots: int) -> list[Question]:
    questions = []
    for number in range(count):
        rng = np.random.default_rng([seed, shots, number, 1])
        drawn = [task.pairs[at] for at in rng.choice(len(task.pairs), size=shots + 1, replace=False).tolist()]
        context = tuple(Demonstration(left, (), right) for left, right in drawn[1:])
        questions.append((Prompt(drawn[0][0], demonstrations=context), drawn[0][1]))
    return questions


def _accuracy(engine: StaticGenerator, questions: Sequence[Question], report: Report = ignore) -> float:
    answers = generate_answers(engine, [(prompt, None) for prompt, _ in questions], DECODING, report, "easy-vqa")
    return fmean(_is_exact(given, wanted) for given, (_, wanted) in zip(answers, questions, strict=True))


def _is_exact(given: str, wanted: str) -> bool:
    """Compare without folding case, unlike `vlibrary train`: capital letters are one of the conventions."""
    return " ".join(given.split()) == wanted


def _by_shots(accuracy: Mapping[int, float]) -> dict[str, Any]:
    rest = {shots: value for shots, value in accuracy.items() if shots}
    return {"zero_shot": accuracy[0], "shots": _with_text_keys(rest)}


def _with_text_keys(accuracy: Mapping[int, float]) -> dict[str, float]:
    return {str(shots): value for shots, value in accuracy.items()}
