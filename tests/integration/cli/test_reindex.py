"""`vlibrary reindex` makes the vectors of another embedder findable."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.model import tiny
from tests.model.samples import noise_image
from tests.support.registrations import embedding, key, register
from vlibrary.bootstrap import open_stores
from vlibrary.cli.upkeep import reindex
from vlibrary.config import read_settings
from vlibrary.domain.card import KeyKind


def write_examples(folder: Path) -> Path:
    """Write twenty labelled pictures."""
    folder.mkdir()
    lines = []
    for number in range(20):
        (folder / f"{number}.png").write_bytes(noise_image(number))
        lines.append(
            json.dumps(
                {"image": f"{number}.png", "question": f"which hue {number % 3}?", "answer": f"colour {number % 2}"}
            )
        )
    file = folder / "examples.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_examples_and_descriptions_are_embedded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLIBRARY_DATA_DIR", str(tmp_path / "data"))
    catalogue = open_stores(read_settings(), create=True).catalogue
    old = (key(embedding(np.random.default_rng(0))),)
    for name in ("hue", "lost"):
        register(catalogue, name, description="Colours.", keys=old, embedder="e" * 64)
    folder = tiny.save_embedder(*tiny.clip(), tmp_path / "clip")

    reindex(embedder=str(folder), examples=[f"hue={write_examples(tmp_path / 'examples')}"], as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["recomputed"], printed["needs examples"]) == (["hue:1"], ["lost:1"])
    cards = {record.name: record.card for record in catalogue.vectors.page(limit=9).records}
    assert cards["lost"].embedder == "e" * 64
    assert cards["hue"].embedder not in (None, "e" * 64)
    kinds = [one.kind for one in cards["hue"].keys]
    assert kinds.count(KeyKind.DESCRIPTION) == 1 < len(kinds)
    assert cards["hue"].thresholds

    reindex(embedder=str(folder))
    assert "Pass --examples NAME=FILE for lost:1." in capsys.readouterr().out
