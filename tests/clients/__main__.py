"""`python -m tests.clients`: runs every client program and every harness, and prints what works as a matrix."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from tests.clients.environments import NotInstalledError, Program
from tests.clients.recipes import run_recipes
from tests.clients.subject import Subject, running_subject

PROGRAMS = (
    Program("Plain HTTP", "use_http.py", "openai"),
    Program("openai (Python)", "use_openai.py", "openai"),
    Program("openai (Node)", "use_openai.mjs", "node"),
    Program("AI SDK", "use_ai_sdk.mjs", "node"),
    Program("LangChain", "use_langchain.py", "langchain"),
    Program("LlamaIndex", "use_llamaindex.py", "llamaindex"),
    Program("LiteLLM", "use_litellm.py", "litellm"),
    Program("llm", "use_llm.py", "llm"),
    Program("Pydantic AI", "use_pydantic_ai.py", "pydantic_ai"),
    Program("Instructor", "use_instructor.py", "instructor"),
    Program("Inspect", "use_inspect.py", "inspect", harness=True),
    Program("lmms-eval", "use_lmms_eval.py", "lmms_eval", harness=True),
    Program("VLMEvalKit", "use_vlmevalkit.py", "vlmevalkit", harness=True),
    Program("GuideLLM", "use_guidellm.py", "guidellm", harness=True),
    Program("vllm bench serve", "use_vllm.py", "vllm", harness=True),
    Program("lm-evaluation-harness", "use_lm_eval.py", "lm_eval", harness=True),
)
CHECKS = ("text", "image", "stream", "vector", "audit", "stream audit", "headers", "errors", "recipe")
MORE = ("logprobs", "json", "completions", "responses", "embeddings", "tools")
MARKS = {"pass": "yes", "fail": "[red]FAIL[/red]", "unsupported": "–"}
TIMEOUT_S = 1_800.0
# Accuracy is a share; 0.1 points.
TOLERANCE = 0.001


def main(
    only: Annotated[list[str] | None, typer.Argument(help="Names of programs, by default all")] = None,
    count: Annotated[int, typer.Option(help="Questions for each harness")] = 40,
) -> None:
    """Print the matrix of the clients and the table of the harnesses; exit with 1 if anything failed."""
    console = Console(width=180)
    names = [each.name for each in PROGRAMS]
    if unknown := [name for name in only or () if name not in names]:
        raise typer.BadParameter(f"unknown {', '.join(map(repr, unknown))}; choose from: {', '.join(names)}")
    chosen = [each for each in PROGRAMS if not only or each.name in only]
    failures: list[str] = []
    with TemporaryDirectory() as folder, running_subject(Path(folder), max(count, 1)) as subject:
        results: dict[str, dict[str, Any]] = {}
        for number, program in enumerate(chosen):
            console.print(f"{program.name} …")
            work = Path(folder) / f"work-{number}"
            work.mkdir()
            began = time.monotonic()
            try:
                results[program.name] = _run(program, subject, work, count)
            except Exception as error:  # noqa: BLE001  the other programs run all the same
                results[program.name] = {"crashed": f"{type(error).__name__}: {error}"[-1_500:]}
            console.print(f"    {time.monotonic() - began:.0f} s")
        accuracy = subject.accuracy
    clients = [each for each in chosen if not each.harness]
    harnesses = [each for each in chosen if each.harness]
    if clients:
        console.print(_matrix(clients, results, failures))
    if harnesses:
        console.print(_figures(harnesses, results, accuracy, failures))
    for failure in failures:
        console.print(failure, style="red", soft_wrap=True, markup=False)
    print(json.dumps({"count": count, "own_accuracy": dict(accuracy), "results": results}))
    raise typer.Exit(1 if failures else 0)


def _run(program: Program, subject: Subject, work: Path, count: int) -> dict[str, Any]:
    """Return the results of the checks by name, or the figures of a harness; {"missing": why} if it cannot be had."""
    try:
        command = program.command()
    except NotInstalledError as reason:
        return {"missing": str(reason)}
    before = subject.answered()
    environment = os.environ | subject.variables(work, count)
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return {"crashed": f"It did not end in {TIMEOUT_S:.0f} s."}
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        return {"crashed": done.stderr.strip()[-1_500:]}
    if not program.harness:
        recipe = run_recipes(program.name, command, environment, work)
        return {line["check"]: line for line in (lines if recipe is None else [*lines, recipe])}
    after = subject.answered()
    answers = {status: after[status] - before.get(status, 0) for status in after}
    return lines[-1] | {"answers": {status: number for status, number in answers.items() if number}}


def _matrix(programs: list[Program], results: Mapping[str, Any], failures: list[str]) -> Table:
    table = Table("client", *CHECKS, *MORE, "also", title="What works with each client")
    for program in programs:
        result = results[program.name]
        if "missing" in result or "crashed" in result:
            table.add_row(program.name, _unusable(program, result, failures))
            continue
        failures += [
            f"{program.name}, {name}: {line['note']}" for name, line in result.items() if line["result"] == "fail"
        ]
        cells = [MARKS[result[name]["result"]] if name in result else "–" for name in (*CHECKS, *MORE)]
        others = [name for name in result if name not in (*CHECKS, *MORE)]
        also = [name if result[name]["result"] == "pass" else f"[red]{name}[/red]" for name in others]
        table.add_row(program.name, *cells, ", ".join(also))
    return table


def _figures(
    programs: list[Program], results: Mapping[str, Any], accuracy: Mapping[str, float], failures: list[str]
) -> Table:
    table = Table(
        "harness", "requests", "failed", "HTTP answers", "accuracy", "our evaluation", "note", title="Harnesses"
    )
    for program in programs:
        result = results[program.name]
        if "missing" in result or "crashed" in result:
            table.add_row(program.name, _unusable(program, result, failures))
            continue
        own = accuracy[result.get("images", "PNG")] if "accuracy" in result else None
        answers = ", ".join(f"{number} × {status}" for status, number in result["answers"].items())
        measured = "–" if own is None else f"{result['accuracy']:.2%}"
        expected = "–" if own is None else f"{own:.2%} ({result.get('images', 'PNG')})"
        table.add_row(
            program.name,
            str(result["requests"]),
            str(result["failed"]),
            answers,
            measured,
            expected,
            result.get("note", ""),
        )
        if result["failed"] or set(result["answers"]) - {"200"}:
            failures.append(f"{program.name}: {result['failed']} failed; the service answered {answers}")
        if own is not None and abs(result["accuracy"] - own) > TOLERANCE:
            failures.append(f"{program.name}: accuracy {measured}, our evaluation {expected}")
    return table


def _unusable(program: Program, result: Mapping[str, str], failures: list[str]) -> str:
    if "missing" in result:
        failures.append(f"{program.name} cannot be installed: {result['missing']}")
        return "[red]not installed[/red]"
    failures.append(f"{program.name}: {result['crashed']}")
    return MARKS["fail"]


if __name__ == "__main__":
    typer.run(main)
