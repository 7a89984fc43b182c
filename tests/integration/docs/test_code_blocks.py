"""The code blocks of README and docs run as shown, against a service with the bundled models."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vlibrary.bundled.tasks import examples, task
from vlibrary.cli.demo.service_process import running_service

ROOT = Path(__file__).parents[3]
ADDRESS = "http://127.0.0.1:8000"
HISTORY = ("lab-log.md", "decisions")
# `make test-clients` runs its blocks, in the environments of the programs that they are about.
ELSEWHERE = ("clients.md",)
PAGES = [
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    if not any(part in HISTORY for part in page.parts)
]
# What a page expects to be there: three versions of a vector, trained for one step.
SETUP = {
    "registry.md": """
        vlibrary examples colour-code data --count 60
        vlibrary train data/examples.jsonl --name colour --description Colours --steps 1 --shots 2
        for version in 1 2 3; do vlibrary register colour.safetensors; done
        vlibrary tag colour:2 --add checked
    """,
    "python.md": """
        vlibrary examples colour-code data --count 60
        vlibrary train data/examples.jsonl --name colour-code --description Colours --steps 1 --shots 2
    """,
}


@dataclass(frozen=True)
class Block:
    """One fenced code block that is meant to run."""

    page: Path
    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    fenced = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(page, language, code) for language, code in fenced if not code.startswith("# not run: ")]


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a new service, so that ids and revisions on a page are those of its own calls."""
    with running_service(tmp_path_factory.mktemp("service")) as client:
        yield client.url


@pytest.fixture
def environment(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A working directory with picture.png, and a PATH with this checkout's `vlibrary` command."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "vlibrary").write_text(f'#!/bin/sh\nexec {sys.executable} -m vlibrary.cli "$@"\n')
    (commands / "vlibrary").chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    (work / "picture.png").write_bytes(examples(task("colour-code"), "test", 1, seed=0)[0].image)
    monkeypatch.chdir(work)
    return os.environ | {"VLIBRARY_URL": url, "PATH": f"{commands}:{os.environ['PATH']}"}


def run_shell(code: str, environment: dict[str, str]) -> None:
    # The service is running already; a curl command whose answer is an error fails.
    lines = [line for line in code.splitlines() if not line.startswith("vlibrary serve")]
    script = "\n".join(['curl() { command curl --no-progress-meter --fail "$@"; }', *lines])
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [
        page
        for page in PAGES
        if page.name not in ELSEWHERE and any(block.language in ("bash", "python") for block in blocks(page))
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)  # fmt: skip
def test_code_blocks_run_as_shown(page: Path, url: str, environment: dict[str, str]) -> None:
    run_shell(SETUP.get(page.name, ""), environment)
    for block in blocks(page):
        code = block.code.replace(ADDRESS, url).replace("http://other:8000", url)
        if block.language == "bash":
            run_shell(code, environment)
        elif block.language == "python":
            done = subprocess.run(
                [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{code}\n{done.stderr}"


def test_every_fenced_block_has_a_known_language() -> None:
    known = {"bash", "python", "json", "bibtex", "js", "yaml"}
    assert {block.language for page in PAGES for block in blocks(page)} <= known


@pytest.mark.parametrize("block", [b for page in PAGES for b in blocks(page) if b.language == "json"])
def test_json_blocks_parse(block: Block) -> None:
    json.loads(block.code)


def test_links_between_pages_lead_to_files() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []
