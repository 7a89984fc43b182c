"""The recipes of docs/guides/clients.md: the code blocks below a program's heading run in its environment as shown."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.clients.environments import ROOT

PAGE = ROOT / "docs" / "guides" / "clients.md"
ADDRESS = "http://127.0.0.1:8000"
TIMEOUT_S = 300.0


def recipes(heading: str) -> Iterator[tuple[str, str]]:
    """Yield the language and the code of every block in the section of that heading."""
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    for section in sections:
        if section.partition("\n")[0] == heading:
            yield from re.findall(r"^```(\w+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def run_recipes(heading: str, command: list[str], variables: Mapping[str, str], work: Path) -> dict[str, str] | None:
    """Run the recipes of a program and return the result as a check, or None if the page has none.

    A recipe passes if its output contains the right answer to the picture.

    command: What runs the program; its interpreter runs the recipes too.
    """
    shutil.copy(variables["PICTURE"], work / "picture.png")
    blocks, printed = list(recipes(heading)), ""
    for language, code in blocks:
        shown = code.replace(ADDRESS, variables["VLIBRARY_URL"])
        if language == "yaml":
            (work / "extra-openai-models.yaml").write_text(shown)
            continue
        done = _run(language, shown, command, dict(variables), work)
        printed += done.stdout
        if done.returncode != 0:
            return {"check": "recipe", "result": "fail", "note": f"{done.stdout}{done.stderr}"[-800:]}
    if blocks and variables["EXPECTED"] not in printed:
        return {"check": "recipe", "result": "fail", "note": f"no {variables['EXPECTED']!r} in: {printed[-700:]}"}
    return {"check": "recipe", "result": "pass", "note": ""} if blocks else None


def _run(
    language: str, code: str, command: list[str], variables: Mapping[str, str], work: Path
) -> subprocess.CompletedProcess[str]:
    home = Path(command[0]).parent
    environment = os.environ | variables | {"PATH": f"{home}:{os.environ['PATH']}", "LLM_USER_PATH": str(work)}
    if language == "bash":
        run = ["bash", "-eu", "-o", "pipefail", "-c", code]
    elif language == "js":
        script = Path(command[1]).with_name("recipe.mjs")
        script.write_text(code)
        run = [command[0], str(script)]
    else:
        run = [command[0], "-c", code]
    return subprocess.run(
        run, env=environment, cwd=work, capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
