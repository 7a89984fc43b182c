"""The public names of the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import vlibrary
from tests.support.memory.worker import MODEL
from tests.support.samples import vector as sample_vector
from vlibrary.domain.errors import InvalidArtifact
from vlibrary.formats.artifact import encode

EXPORTED = [
    "AliasOut",
    "AsyncClient",
    "ChosenVector",
    "Client",
    "ErrorCode",
    "Example",
    "GenerateOut",
    "MatchOut",
    "ServiceError",
    "SteeringVector",
    "TextPiece",
    "VLibraryError",
    "VectorOut",
    "__version__",
    "load_vector",
    "open_archive",
    "save_vector",
    "steer",
]


def test_the_exported_names_are_these() -> None:
    assert vlibrary.__all__ == EXPORTED
    assert dir(vlibrary) == sorted(EXPORTED)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_name_exists_and_has_a_docstring(name: str) -> None:
    assert getattr(vlibrary, name).__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = vlibrary.nothing


def test_the_changelog_has_an_entry_for_the_version() -> None:
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(vlibrary.__version__)}\]", changelog, re.MULTILINE)


def test_a_vector_survives_saving_and_loading(tmp_path: Path) -> None:
    vector = sample_vector(MODEL)
    path = tmp_path / "vector.safetensors"
    vlibrary.save_vector(vector, path)
    assert encode(vlibrary.load_vector(path)) == encode(vector)
    path.write_bytes(b"")
    with pytest.raises(InvalidArtifact):
        vlibrary.load_vector(str(path))
