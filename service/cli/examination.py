"""Runs a deep examination with progress, and prints its findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from vlibrary.cli.output import console, errors, print_json, progress
from vlibrary.upkeep.doctor import Diagnosis
from vlibrary.upkeep.findings import Finding, Progress

MAX_SHOWN = 50


def run_examination(steps: Iterator[Finding | Progress | Diagnosis], cursor: str | None) -> Diagnosis:
    """Run the examination and show its progress; on Ctrl+C, print the findings so far and how to resume."""
    findings: list[Finding] = []
    try:
        with progress() as report:
            for step in steps:
                match step:
                    case Finding():
                        findings.append(step)
                    case Progress():
                        cursor = step.cursor
                        report(f"{step.part}: {step.done}; {len(findings)} findings; resume with --cursor {cursor}")
                    case Diagnosis():
                        return step
    except KeyboardInterrupt:
        _print_findings(findings)
        errors.print(f"Interrupted; resume with --cursor {cursor}" if cursor else "Interrupted.", highlight=False)
        raise
    raise AssertionError("an examination ends with its diagnosis")


def print_diagnosis(diagnosis: Diagnosis, *, complete: bool, as_json: bool) -> None:
    """Print the findings, and whether garbage collection is allowed. complete: nothing was left out."""
    if as_json:
        found = [asdict(finding) for finding in diagnosis.findings]
        print_json({"sound": diagnosis.sound, "findings": found, "collector_cleared": diagnosis.resumed})
    else:
        _print_findings(diagnosis.findings)
        if diagnosis.resumed:
            console.print("Garbage collection is allowed again.")
        console.print("[green]Nothing is wrong.[/]" if diagnosis.sound else "[red]Something is wrong.[/]")
    if diagnosis.sound and not diagnosis.allowed:
        cure = "run this again" if complete else "run this without --sample and --cursor to allow it"
        errors.print(f"Garbage collection stays paused; {cure}.")


def _print_findings(findings: Sequence[Finding]) -> None:
    table = Table("level", "kind", "detail", "what to do")
    for finding in sorted(findings, key=lambda finding: finding.level, reverse=True)[:MAX_SHOWN]:
        table.add_row(finding.level, finding.kind, escape(finding.detail), escape(finding.cure))
    if findings:
        console.print(table)
    if len(findings) > MAX_SHOWN:
        console.print(f"... and {len(findings) - MAX_SHOWN} more; --json prints all.")
