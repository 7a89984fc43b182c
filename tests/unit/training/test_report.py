"""The bundled report: means over held-out tasks, JSON, table and plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from vlibrary.evaluation.report import SHOTS, BundledReport, TaskCurve, plot_curves


def _curve(name: str, held_out: bool, start: float) -> TaskCurve:
    return TaskCurve(name, held_out, "colour", start, {shots: start + shots / 100 for shots in SHOTS})


@pytest.fixture
def report() -> BundledReport:
    curves = (_curve("known", False, 0.8), _curve("first-code", True, 0.0), _curve("second-code", True, 0.2))
    return BundledReport(curves, embedder_top1=0.995, lvlm_mb=6.4, embedder_mb=2.1)


def test_means_are_over_held_out_tasks(report: BundledReport) -> None:
    assert report.zero_shot == pytest.approx(0.1)
    assert report.shots == pytest.approx({1: 0.11, 2: 0.12, 4: 0.14, 8: 0.18, 16: 0.26})


def test_the_json_has_the_documented_form(report: BundledReport) -> None:
    document = json.loads(json.dumps(report.as_json()))
    assert set(document) == {"zero_shot", "shots", "tasks", "embedder_top1", "lvlm_mb", "embedder_mb"}
    assert document["shots"] == pytest.approx({"1": 0.11, "2": 0.12, "4": 0.14, "8": 0.18, "16": 0.26})
    assert document["tasks"][1] == {
        "name": "first-code",
        "held_out": True,
        "attribute": "colour",
        "zero_shot": 0.0,
        "shots": {"1": 0.01, "2": 0.02, "4": 0.04, "8": 0.08, "16": 0.16},
    }


def test_the_table_has_one_row_per_task_and_the_mean(report: BundledReport) -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(report.as_table())
    text = capture.get()
    assert [name in text for name in ("known", "first-code", "second-code", "mean of held-out")] == [True] * 4
    assert "0.26" in text
    assert "99.5%" in text


def test_the_plot_is_a_non_empty_png(report: BundledReport, tmp_path: Path) -> None:
    path = tmp_path / "curves.png"
    plot_curves(report, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > picture.height > 300
        assert len(picture.convert("RGB").getcolors(maxcolors=2**20) or []) > 50
