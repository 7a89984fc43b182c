"""A miniature build of the bundled models: it writes weights and curves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vlibrary.bundled.making.build import Schedule, build
from vlibrary.bundled.making.decoder import Plan
from vlibrary.bundled.tasks import TASKS

TINY = Schedule(
    vision_steps=2,
    vision_pool=60,
    scenes=120,
    digits=60,
    unseen=240,
    embedder_steps=2,
    embedder_pool=300,
    queries=2,
    decoder=Plan(steps=2, episodes=2, rows=1, compiled=False),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one torch thread: steps this small gain nothing from a second, and on a busy machine wait a minute for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_build_writes_both_models_and_the_curves(tmp_path: Path) -> None:
    build(tmp_path, seed=1, schedule=TINY, console=Console(quiet=True))
    assert (tmp_path / "lvlm" / "model.safetensors").is_file()
    assert (tmp_path / "embedder" / "model.safetensors").is_file()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    record = json.loads((tmp_path / "curves.json").read_text())
    assert set(record["shots"]) == {each.name for each in TASKS}
    assert set(record["seconds"]) == {"vision", "decoder", "embedder"}
