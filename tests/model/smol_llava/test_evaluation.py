"""Evaluation of smol-llava, run with the toy model in its place: what is asked and how answers are counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from vlibrary.bundled import LVLM_FOLDER
from vlibrary.domain.wire import Prompt
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.smol_llava import SHOTS, Curve, SmolReport, _is_exact, measure
from vlibrary.models.lvlm import Lvlm
from vlibrary.smol_llava.tasks import CODED, NATURAL, TEXTUAL, PictureTask, examples

NEEDS_WEIGHTS = pytest.mark.skipif(not (LVLM_FOLDER / "config.json").exists(), reason="the weights are not installed")


def test_there_are_at_least_eight_natural_conventions_and_five_text_tasks() -> None:
    assert len(NATURAL) >= 8
    assert {task.name for task in TEXTUAL} == {"capital", "antonym", "past", "plural", "translation"}
    assert all(len(task.pairs) > max(SHOTS) for task in TEXTUAL)
    assert not any(task.arbitrary for task in NATURAL)
    assert all(task.arbitrary for task in CODED)


@pytest.mark.parametrize("task", [*NATURAL, *CODED], ids=lambda task: task.name)
def test_examples_are_deterministic_and_their_splits_differ(task: PictureTask) -> None:
    drawn = examples(task, "test", 4, seed=1)
    assert drawn == examples(task, "test", 4, seed=1)
    assert not {each.image for each in drawn} & {each.image for each in examples(task, "train", 4, seed=1)}
    assert all(each.question and each.answer for each in drawn)


def test_capital_letters_count_and_white_space_does_not() -> None:
    assert _is_exact(" RED\n", "RED")
    assert not _is_exact("red", "RED")
    assert not _is_exact("RED.", "RED")


@NEEDS_WEIGHTS
def test_every_group_is_measured_at_every_number_of_demonstrations() -> None:
    picture = examples(NATURAL[0], "test", 1, seed=0)[0]
    questions = [(Prompt("Which colour?", (picture.image,)), "no model says this")]
    engine = StaticGenerator(Lvlm.load(LVLM_FOLDER))
    report = measure(engine, 1, easy_vqa=questions, mb=1.5, tasks=(NATURAL[0], CODED[0]), texts=TEXTUAL[:1])
    assert [(curve.task, curve.group) for curve in report.curves] == [
        ("colour-spanish", "natural"),
        ("colour-code", "code words"),
        ("capital", "text"),
    ]
    assert all(tuple(curve.accuracy) == SHOTS for curve in report.curves)
    assert report.easy_vqa == 0.0


def test_the_json_has_the_means_of_each_group(tmp_path: Path) -> None:
    flat = dict.fromkeys(SHOTS, 0.5)
    rising = {shots: number / 10 for number, shots in enumerate(SHOTS)}
    curves = (Curve("a", "natural", flat), Curve("b", "natural", rising), Curve("c", "code words", flat))
    report = SmolReport((*curves, Curve("d", "text", rising)), caption=0.9, easy_vqa=None, mb=11.8)
    found = report.as_json()
    assert found["zero_shot"] == 0.25
    assert found["shots"] == pytest.approx({"1": 0.3, "2": 0.35, "4": 0.4, "8": 0.45, "16": 0.5})
    assert found["code_words"]["zero_shot"] == 0.5
    assert found["text_only"]["shots"]["16"] == 0.5
    assert (found["caption"], found["easy_vqa"], found["mb"]) == (0.9, None, 11.8)
    figure = Figure()
    report.plot(figure)
    figure.savefig(tmp_path / "curves.png")
    assert len(figure.axes) == 3
    assert np.isfinite(figure.axes[0].lines[0].get_ydata()).all()
