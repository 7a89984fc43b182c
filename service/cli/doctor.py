"""`vlibrary doctor`: checks a running service or, with --deep, examines the library's stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from functools import partial
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from vlibrary.bootstrap import OpenStores, new_index, open_operator_stores
from vlibrary.cli.output import console, errors, print_json, progress
from vlibrary.cli.upkeep import OPERATOR, Actor
from vlibrary.cli.vectors import LOCAL, AsJson, Url
from vlibrary.client import Client
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.query import EmbedderSpec
from vlibrary.upkeep.doctor import Diagnosis, Scope, diagnose
from vlibrary.upkeep.findings import Finding, Progress
from vlibrary.upkeep.index_check import find_index_damage

MAX_SHOWN = 50
DEEP = "Options for --deep"


def doctor(
    url: Url = LOCAL,
    deep: Annotated[bool, typer.Option("--deep", help="Examine the stores directly; needs no running service")] = False,
    sample: Annotated[
        float, typer.Option(min=0, max=1, help="Share of objects to read and hash", rich_help_panel=DEEP)
    ] = 1.0,
    cursor: Annotated[
        str | None,
        typer.Option(help="Resume an interrupted examination from the cursor it printed", rich_help_panel=DEEP),
    ] = None,
    index: Annotated[
        bool, typer.Option("--index/--no-index", help="Examine the index snapshot", rich_help_panel=DEEP)
    ] = True,
    repair_index: Annotated[
        bool,
        typer.Option("--repair-index", help="Save a new index snapshot if none is correct", rich_help_panel=DEEP),
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Allow garbage collection although the store has markers of another library or of an unfinished "
            "restoration",
            rich_help_panel=DEEP,
        ),
    ] = False,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Check that the service works; with --deep, examine the library's stores.

    The exit code is 1 if something is wrong. A complete examination (without --sample and --cursor) that finds nothing
    wrong allows garbage collection again after a restoration.
    """
    if not deep:
        if cursor is not None or repair_index or not index or sample != 1.0 or take_over:
            raise InvalidInput("An option for --deep is given without it.", "Add --deep.")
        _check_service(url, as_json=as_json)
        return
    scope = Scope(sample, cursor, take_over)
    stores = open_operator_stores()
    damage: Callable[[], Sequence[Finding]] = tuple
    if index:
        open_index = partial(new_index, _open_embedder(stores))
        damage = partial(find_index_damage, stores.catalogue, stores.snapshots, open_index, repair=repair_index)
    steps = diagnose(stores.catalogue, stores.artifacts, scope, actor=actor, check_index=damage)
    diagnosis = _run(steps, cursor)
    if as_json:
        found = [asdict(finding) for finding in diagnosis.findings]
        print_json({"sound": diagnosis.sound, "findings": found, "collector_cleared": diagnosis.resumed})
    else:
        _print_findings(diagnosis.findings)
        if diagnosis.resumed:
            console.print("Garbage collection is allowed again.")
        console.print("[green]Nothing is wrong.[/]" if diagnosis.sound else "[red]Something is wrong.[/]")
    if diagnosis.sound and not diagnosis.allowed:
        cure = "run this again" if scope.complete else "run this without --sample and --cursor to allow it"
        errors.print(f"Garbage collection stays paused; {cure}.")
    if not diagnosis.sound:
        raise typer.Exit(1)


def _check_service(url: str, *, as_json: bool) -> None:
    with Client(url) as service:
        report = service.get_readiness()
    if as_json:
        print_json(report)
    else:
        table = Table("part", "works", "detail")
        for check in report.checks:
            table.add_row(check.name, "[green]yes[/]" if check.ok else "[red]no[/]", check.detail)
        console.print(table)
    if not report.ready:
        raise typer.Exit(1)


def _run(steps: Iterator[Finding | Progress | Diagnosis], cursor: str | None) -> Diagnosis:
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


def _open_embedder(stores: OpenStores) -> EmbedderSpec:
    """Return the embedder whose keys the service compares: that of its workers, or the one in the settings."""
    # Imported here because the model libraries take seconds to load, which would delay `vlibrary --help`.
    if stores.settings.workers:
        from vlibrary.api.bootstrap import open_fleet

        with closing(open_fleet(stores.settings)) as fleet:
            return fleet.models()[0].embedder
    from vlibrary.worker.bootstrap import open_embedder

    return open_embedder(stores.settings).spec


def _print_findings(findings: Sequence[Finding]) -> None:
    table = Table("level", "kind", "detail", "what to do")
    for finding in sorted(findings, key=lambda finding: finding.level, reverse=True)[:MAX_SHOWN]:
        table.add_row(finding.level, finding.kind, escape(finding.detail), escape(finding.cure))
    if findings:
        console.print(table)
    if len(findings) > MAX_SHOWN:
        console.print(f"... and {len(findings) - MAX_SHOWN} more; --json prints all.")
