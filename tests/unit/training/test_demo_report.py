"""The demo's report: JSON, table and plot of given results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from tests.support.samples import png
from vlibrary.cli import app
from vlibrary.cli.demo.plot import plot_results
from vlibrary.cli.demo.report import Arm, DemoReport, Sample, TaskResult, show


@pytest.fixture
def report() -> DemoReport:
    tasks = [
        TaskResult("colour-code", Arm(0.0, 9, 9), Arm(0.9, 170, 23), Arm(1.0, 9, 14), hit_rate=1.0),
        TaskResult("shape-code-unnamed", Arm(0.1, 9, 9), Arm(0.5, 160, 21), Arm(0.9, 9, 14), hit_rate=0.5),
    ]
    sample = Sample(png((200, 30, 30)), "colour-code", "Which hue?", "wug", "rot", "wug", "colour-code")
    return DemoReport("a toy", tasks, shots=16, queries=120, sample=sample, seconds=90.0)


def test_the_json_has_the_documented_form(report: DemoReport) -> None:
    document = json.loads(json.dumps(report.as_json()))
    assert set(document) == {"tasks", "retrieval_hit_rate", "mean_gain_over_icl"}
    assert document["retrieval_hit_rate"] == pytest.approx(0.75)
    assert document["mean_gain_over_icl"] == pytest.approx(0.25)
    assert document["tasks"][0] == {
        "name": "colour-code",
        "zero_shot": 0.0,
        "icl": 0.9,
        "steered": 1.0,
        "icl_tokens": 170,
        "steered_tokens": 9,
        "icl_ms": 23,
        "steered_ms": 14,
    }


def test_the_output_has_every_task_the_mean_and_the_summary(report: DemoReport) -> None:
    console = Console(width=100)
    with console.capture() as capture:
        show(report, console)
    text = " ".join(capture.get().split())
    assert "60 unseen images per task" in text
    assert "shape-code-unnamed │ 10.0% · 9 · 9 │ 50.0% · 160 · 21 │ 90.0% · 9 · 14" in text
    assert "mean │ 5.0% · 9 · 9 │ 70.0% · 165 · 22 │ 95.0% · 9 · 14" in text
    assert "right vector to 75.0% of 120 requests" in text
    assert "accuracy by +25.0 points and uses 5.5% of the prompt tokens" in text


def test_the_plot_is_written_as_png_or_svg(report: DemoReport, tmp_path: Path) -> None:
    plot_results(report, tmp_path / "images" / "demo.png")
    with Image.open(tmp_path / "images" / "demo.png") as picture:
        assert (picture.format, picture.width) == ("PNG", 1600)
        assert len(picture.convert("RGB").getcolors(maxcolors=2**20) or []) > 50
    plot_results(report, tmp_path / "demo.svg")
    assert (tmp_path / "demo.svg").read_text().startswith("<?xml")


def test_another_suffix_is_refused_before_the_run() -> None:
    result = CliRunner().invoke(app, ["demo", "--plot", "demo.gif"])
    assert result.exit_code == 2
    assert "must end with .png or .svg" in result.output
