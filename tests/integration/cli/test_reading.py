"""Commands that read vectors of a running service: show, lineage, audit, download, retrieve with filters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.command_line import run
from tests.support.library import memory_library, register
from tests.support.live_server import live
from vlibrary.api.app import create_app


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    library = memory_library()
    register(library, "hue", "Which hue?")
    with live(create_app(library)) as url:
        yield url


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command line; return its exit code and what it printed."""

    def run_and_read(*arguments: str) -> tuple[int, str]:
        code = run(*arguments)
        return code, capsys.readouterr().out

    return run_and_read


def test_a_record_its_lineage_and_the_audit_log_are_printed_as_json(
    url: str, printed: Callable[..., tuple[int, str]]
) -> None:
    (record,) = json.loads(printed("list", "--json", "--url", url)[1])
    code, shown = printed("show", record["id"], "--url", url)
    assert (code, json.loads(shown)) == (0, record)
    assert json.loads(printed("lineage", record["name"], "--url", url)[1])["id"] == record["id"]
    (entry,) = printed("audit", "--subject", record["id"], "--url", url)[1].splitlines()
    assert json.loads(entry)["subject"] == record["id"]
    assert printed("show", "none", "--url", url)[0] == 1


def test_a_download_never_replaces_a_file(url: str, printed: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    (record,) = json.loads(printed("list", "--json", "--url", url)[1])
    out = tmp_path / "v.safetensors"
    assert printed("download", record["id"], "--out", str(out), "--url", url)[0] == 0
    assert out.stat().st_size == record["size"]
    assert printed("download", record["id"], "--out", str(out), "--url", url)[0] == 1


def test_retrieve_takes_the_filters_of_list(url: str, printed: Callable[..., tuple[int, str]]) -> None:
    found = printed("retrieve", "a", "--name", "none", "--tag", "none", "--url", url)
    assert found == (0, "No vectors for this model.\n")


def test_the_version_is_printed(printed: Callable[..., tuple[int, str]]) -> None:
    assert printed("--version") == (0, f"{version('vlibrary')}\n")
