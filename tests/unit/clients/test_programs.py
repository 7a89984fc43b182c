"""The list of client programs is complete: each has its file, its packages and, on the guide's page, its recipe."""

from __future__ import annotations

import re

import pytest
import typer

from tests.clients.__main__ import PROGRAMS, main
from tests.clients.environments import HERE, Program
from tests.clients.recipes import PAGE, recipes


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_has_its_file_and_pinned_packages(program: Program) -> None:
    assert program.path.is_file()
    if program.file.endswith(".mjs"):
        assert program.path.with_name("package-lock.json").is_file()
        return
    lines = (HERE / "requirements" / f"{program.packages}.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[\w.\-\[\]]+==[\w.+!]+", line)] == []


def test_no_program_is_left_out() -> None:
    files = {path.name for folder in ("programs", "harnesses") for path in (HERE / folder).glob("use_*")}
    assert files == {program.file for program in PROGRAMS}


@pytest.mark.parametrize("program", [each for each in PROGRAMS if not each.harness], ids=lambda program: program.name)
def test_the_guide_has_a_section_for_each_client(program: Program) -> None:
    assert f"\n## {program.name}\n" in PAGE.read_text()


@pytest.mark.parametrize("program", [each for each in PROGRAMS if each.harness], ids=lambda program: program.name)
def test_the_guide_has_a_command_for_each_harness(program: Program) -> None:
    names = {"vllm bench serve": "vLLM's benchmark client"}
    assert f"**{names.get(program.name, program.name)}**" in PAGE.read_text()


def test_the_recipes_of_a_section_are_those_below_its_heading() -> None:
    assert [language for language, _ in recipes("llm")] == ["yaml", "bash"]
    assert list(recipes("No such client")) == []


def test_an_unknown_program_is_refused_before_anything_runs() -> None:
    with pytest.raises(typer.BadParameter, match="unknown 'http'; choose from: Plain HTTP"):
        main(["http"])
