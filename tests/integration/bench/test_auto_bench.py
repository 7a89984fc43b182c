"""A quick run of the benchmark of `auto` reports every figure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PLACES = {f"{traffic}_{clients}" for traffic in ("distinct", "repeated") for clients in (1, 8, 32)}


@pytest.mark.real
def test_a_quick_run_prints_every_figure_as_json() -> None:
    command = [sys.executable, "-m", "tests.bench.auto", "--quick"]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found.pop("goal") == 0.85
    assert set(found) == PLACES
    for figures in found.values():
        assert min(figures.values()) > 0
        assert {"off", "explicit", "auto", "ratio"} < set(figures)
