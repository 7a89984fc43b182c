"""`vlibrary plot library` reads a library's stores and writes an image and its figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.registrations import embedding, register
from vlibrary.bootstrap import open_stores
from vlibrary.cli.plot import library
from vlibrary.config import read_settings
from vlibrary.domain.card import KeyKind, TaskKey
from vlibrary.domain.errors import InvalidInput


@pytest.fixture(autouse=True)
def library_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path / "data"))
    catalogue = open_stores(read_settings(), create=True).catalogue
    for seed, name in enumerate(["colours", "digits"]):
        key = TaskKey(KeyKind.CENTROID, embedding(np.random.default_rng(seed)))
        register(catalogue, name, keys=(key,), embedder="e" * 64)
    register(catalogue, "described")  # without a key that has both parts


def test_the_plot_shows_the_vectors_that_have_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library(tmp_path / "map.png")
    assert "2 of 3 vectors" in capsys.readouterr().out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((tmp_path / "map.json").read_text(encoding="utf-8"))
    assert [one["vector"] for one in figures["vectors"]] == ["colours:1", "digits:1"]
    library(tmp_path / "one.png", name=["digits"])
    assert len(json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))["vectors"]) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ["unknown"]}, "No vector to draw"),
        ({"examples": ["unknown=x.jsonl"]}, "No vector to draw has the name 'unknown'"),
        ({"examples": ["x.jsonl"]}, "Invalid --examples 'x.jsonl'"),
    ],
)
def test_wrong_names_are_refused(tmp_path: Path, options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        library(tmp_path / "map.png", **options)
    assert not (tmp_path / "map.png").exists()
