"""Runs a deep examination with progress, and prints its findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from vlibrary.cli.output import console, errors, escape, print_json, print_text, progress
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
        print_text(f"Interrupted; resume with --cursor {cursor}" if cursor else "Interrupted.", on=errors)
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
            print_text("Garbage collection is allowed again.")
        if diagnosis.sound:
            print_text("Nothing is wrong.", style="green")
        else:
            print_text("Something is wrong.", style="red")
    if diagnosis.sound and not diagnosis.allowed:
        cure = "run this again" if complete else "run this without --sample and --cursor to allow it"
        print_text(f"Garbage collection stays paused; {cure}.", on=errors)


def _print_findings(findings: Sequence[Finding]) -> None:
    table = Table("level", "kind", "detail", "what to do")
    for finding in sorted(findings, key=lambda finding: finding.level, reverse=True)[:MAX_SHOWN]:
        table.add_row(finding.level, finding.kind, *(Text(escape(text)) for text in (finding.detail, finding.cure)))
    if findings:
        console.print(table)
    if len(findings) > MAX_SHOWN:
        print_text(f"... and {len(findings) - MAX_SHOWN} more; --json prints all.")
