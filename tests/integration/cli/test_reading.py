"""Commands that read vectors of a running service: show, lineage, audit, download, retrieve with filters."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.library import memory_library, register
from tests.support.live_server import live
from vlibrary.api.app import create_app
from vlibrary.cli import main


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    library = memory_library()
    register(library, "hue", "Which hue?")
    with live(create_app(library)) as url:
        yield url


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["vlibrary", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().out


def test_a_record_its_lineage_and_the_audit_log_are_printed_as_json(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (record,) = json.loads(run(capsys, monkeypatch, "list", "--json", "--url", url)[1])
    code, shown = run(capsys, monkeypatch, "show", record["id"], "--url", url)
    assert (code, json.loads(shown)) == (0, record)
    assert json.loads(run(capsys, monkeypatch, "lineage", record["name"], "--url", url)[1])["id"] == record["id"]
    (entry,) = run(capsys, monkeypatch, "audit", "--subject", record["id"], "--url", url)[1].splitlines()
    assert json.loads(entry)["subject"] == record["id"]
    assert run(capsys, monkeypatch, "show", "none", "--url", url)[0] == 1


def test_a_download_never_replaces_a_file(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (record,) = json.loads(run(capsys, monkeypatch, "list", "--json", "--url", url)[1])
    out = tmp_path / "v.safetensors"
    assert run(capsys, monkeypatch, "download", record["id"], "--out", str(out), "--url", url)[0] == 0
    assert out.stat().st_size == record["size"]
    assert run(capsys, monkeypatch, "download", record["id"], "--out", str(out), "--url", url)[0] == 1


def test_retrieve_takes_the_filters_of_list(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(capsys, monkeypatch, "retrieve", "a", "--name", "none", "--tag", "none", "--url", url)
    assert found == (0, "No vectors for this model.\n")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(capsys, monkeypatch, "--version") == (0, f"{version('vlibrary')}\n")
