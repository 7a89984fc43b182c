"""A quick run of the engine benchmark reports every figure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

KEYS = {
    "steered_ratio",
    "distinct64_ratio",
    "unsteered_ratio",
    "unsteered_bit_identical",
    "steps_ratio",
    "vs_sequential",
    "vs_icl_rps",
    "vs_icl_ttft",
    "cold_ms",
    "warm_ms",
    "overhead",
}


def test_a_quick_run_prints_every_figure_as_json() -> None:
    # A process of its own: the bench sets how floating point numbers are rounded.
    command = [sys.executable, "-m", "tests.bench.engine", "--quick"]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    *_, before, last = run.stdout.splitlines()
    found, bundled = json.loads(last), json.loads(before)["bundled"]
    assert set(found) == set(bundled) == KEYS
    assert found.pop("unsteered_bit_identical") is bundled.pop("unsteered_bit_identical") is True
    assert all(isinstance(value, float) for value in (*found.values(), *bundled.values()))
    assert "steered ÷ unsteered" in run.stdout
    assert "the worker against the bare model" in run.stderr  # the progress
