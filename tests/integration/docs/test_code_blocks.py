"""The code blocks of README and docs run as shown, against a service with the bundled models."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
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
# Its revisions are those of its own calls.
ALONE = ("registry.md",)
# What a page expects to be there: three versions of a vector, or any trained vector; one step is enough.
SETUP = {
    "registry.md": """
        vlibrary examples colour-code data --count 60
        vlibrary train data/examples.jsonl --name colour --description Colours --steps 1 --shots 2 --force
        for version in 1 2 3; do vlibrary register colour.safetensors --force; done
        vlibrary tag colour:2 --add checked
    """,
    "python.md": """
        [ -f colour-code.safetensors ] && exit
        vlibrary examples colour-code few --count 60
        vlibrary train few/examples.jsonl --name colour-code --description Colours --steps 1 --shots 2 --force
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


@dataclass(frozen=True)
class Place:
    """Where blocks run: a folder with picture.png, a service, and a PATH with this checkout's `vlibrary` command."""

    folder: Path
    url: str
    environment: dict[str, str]
    trained: set[str] = field(default_factory=set)

    def run(self, *command: str) -> None:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"

    def run_shell(self, code: str) -> None:
        """Run the lines, but no training a second time: it would write the same files again."""
        # The service is running already; a curl command whose answer is an error fails.
        lines = [re.sub(r"\s+# .*", "", line) for line in code.splitlines()]
        lines = [line for line in lines if not line.startswith("vlibrary serve") and line not in self.trained]
        self.trained.update(line for line in lines if line.startswith(("vlibrary train", "vlibrary examples")))
        setup = 'curl() { command curl --no-progress-meter --fail "$@"; }'
        self.run("bash", "-eu", "-o", "pipefail", "-c", "\n".join([setup, *lines]))


@contextmanager
def new_place(folder: Path) -> Iterator[Place]:
    for name in ("service", "bin", "work"):
        (folder / name).mkdir()
    command, work = folder / "bin" / "vlibrary", folder / "work"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m vlibrary.cli "$@"\n')
    command.chmod(0o755)
    (work / "picture.png").write_bytes(examples(task("colour-code"), "test", 1, seed=0)[0].image)
    with running_service(folder / "service") as client:
        path = f"{command.parent}:{os.environ['PATH']}"
        yield Place(work, client.url, os.environ | {"VLIBRARY_URL": client.url, "PATH": path})


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The place of the pages that show nothing which depends on what was registered before."""
    with new_place(tmp_path_factory.mktemp("shared")) as place:
        yield place


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [
        page
        for page in PAGES
        if page.name not in ELSEWHERE and any(block.language in ("bash", "python") for block in blocks(page))
    ],
    ids=lambda page: str(page.relative_to(ROOT)),
)  # fmt: skip
def test_code_blocks_run_as_shown(page: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    is_alone = page.name in ALONE
    with new_place(tmp_path) if is_alone else nullcontext(request.getfixturevalue("shared")) as place:
        place.run_shell(SETUP.get(page.name, ""))
        for block in blocks(page):
            code = block.code.replace(ADDRESS, place.url).replace("http://other:8000", place.url)
            if block.language == "bash":
                place.run_shell(code)
            elif block.language == "python":
                place.run(sys.executable, "-c", code)


def test_every_fenced_block_has_a_known_language() -> None:
    known = {"bash", "python", "json", "bibtex", "js", "yaml", "nginx"}
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
