"""A quick run of the library benchmark reports every figure. It starts PostgreSQL and an S3 server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KEYS = {
    "p50_ms",
    "p99_ms",
    "over_faiss_ms",
    "recall",
    "recall_filtered",
    "vs_pgvector",
    "vs_chroma",
    "vs_lancedb",
    "restart_ratio",
    "memory_ratio",
    "register_ratio",
    "lag_p99_s",
    "lag_misses",
}


@pytest.mark.real
def test_a_quick_run_prints_every_figure_as_json() -> None:
    command = [sys.executable, "-m", "tests.bench.library", "--quick"]
    run = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert set(found) == KEYS
    assert (found["recall"], found["lag_misses"]) == (1.0, 0.0)
