"""`vlibrary doctor`: does a running service work; and with --deep, does the library keep its promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vlibrary.bootstrap import Stores, open_operator_stores
from vlibrary.cli.index_check import check_index
from vlibrary.cli.output import console, errors, print_json, progress
from vlibrary.cli.upkeep import OPERATOR, Actor
from vlibrary.cli.vectors import LOCAL, AsJson, Url
from vlibrary.client import Client
from vlibrary.domain.errors import CollectorPaused, InvalidInput
from vlibrary.domain.ports import Position
from vlibrary.domain.ports.snapshots import SnapshotsUnavailable
from vlibrary.domain.query import EmbedderSpec
from vlibrary.upkeep.collector_guard import check_cleared, clear, marks
from vlibrary.upkeep.examine import examine
from vlibrary.upkeep.findings import Finding, Level, wrong
from vlibrary.upkeep.store_ownership import OTHER_LIBRARY, UNFINISHED

SHOWN = 50


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


def doctor(
    url: Url = LOCAL,
    deep: Annotated[bool, typer.Option("--deep", help="Examine the stores themselves, without a service")] = False,
    sample: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="With --deep: share of objects to read and hash, not only to look for; less than 1 ends no pause",
        ),
    ] = 1.0,
    cursor: Annotated[
        str | None,
        typer.Option(help="With --deep: go on where an examination was broken off; what is left of one ends no pause"),
    ] = None,
    index: Annotated[bool, typer.Option("--index/--no-index", help="With --deep: examine the index's snapshot")] = True,
    repair_index: Annotated[
        bool, typer.Option("--repair-index", help="With --deep: keep a new snapshot if there is no right one")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="With --deep: let the collector work although another library's mark, or that of an unfinished "
            "restoration, lies in the store",
        ),
    ] = False,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Ask the service whether its parts work; with --deep, examine the library. Exit code 1: something is wrong.

    A whole examination (every object read, nothing left out by a cursor) that finds nothing wrong ends the pause of the
    collector.
    """
    if not deep:
        if cursor is not None or repair_index or not index or sample != 1.0 or take_over:
            raise InvalidInput("An option for --deep is given without it.", "Add --deep.")
        _ask(url, as_json=as_json)
        return
    whole = cursor is None and sample == 1.0
    if take_over and not whole:
        raise InvalidInput("Only a whole examination can take over a store.", "Leave --sample and --cursor out.")
    stores = open_operator_stores()
    spec = _embedder(stores) if index else None
    # First, since an index that knows another history gives the catalogue a new epoch.
    findings = [] if spec is None else _index_findings(stores, spec, repair=repair_index)
    # Before the rest is examined: what is put in its place meanwhile must not be cleared.
    began, marked = stores.catalogue.position(), marks(stores.artifacts)
    findings += _examined(stores, sample, cursor)
    sound = all(_is_passed(finding, take_over=take_over) for finding in findings)
    cleared = sound and whole and _clear_collector(stores, began, marked)
    counts = Counter(finding.kind for finding in findings)
    told = dict(counts) | {"cleared": cleared, "take_over": take_over}
    stores.catalogue.note("library.examine", "all" if cursor is None else f"from {cursor}", told, actor=actor)
    _show(findings, sound=sound, cleared=cleared, as_json=as_json)
    if sound and not _may_collect(stores):
        why = (
            "it was paused anew; run this again"
            if whole
            else "only an examination without --sample and --cursor ends that"
        )
        errors.print(f"The collector stays paused: {why}.")
    if not sound:
        raise typer.Exit(1)


def _ask(url: str, *, as_json: bool) -> None:
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


def _examined(stores: Stores, sample: float, cursor: str | None) -> list[Finding]:
    findings: list[Finding] = []
    try:
        with progress() as tell:
            for step in examine(stores.catalogue, stores.artifacts, sample=sample, cursor=cursor):
                if isinstance(step, Finding):
                    findings.append(step)
                    continue
                cursor = step.cursor
                tell(f"{step.part}: {step.done}; {len(findings)} findings; go on with --cursor {cursor}")
    except KeyboardInterrupt:
        _show(findings, sound=False, cleared=False, as_json=False)
        errors.print(f"Broken off; go on with --cursor {cursor}" if cursor else "Broken off.", highlight=False)
        raise
    return findings


def _index_findings(stores: Stores, spec: EmbedderSpec, *, repair: bool) -> list[Finding]:
    try:
        return check_index(stores.catalogue, stores.snapshots, spec, repair=repair).findings()
    except SnapshotsUnavailable as error:
        detail = f"The index's snapshots cannot be read or written ({error})."
        return [
            wrong(
                "snapshots-unavailable",
                stores.settings.snapshots_place,
                detail,
                "Check the folder's disk and permissions.",
            )
        ]


def _is_passed(finding: Finding, *, take_over: bool) -> bool:
    """Whether the finding leaves the library sound; take_over: also if it tells of others' marks in the store."""
    return finding.level is not Level.WRONG or (take_over and finding.kind in (OTHER_LIBRARY, UNFINISHED))


def _clear_collector(stores: Stores, examined: Position, marked: Collection[str]) -> bool:
    """Whether the collector was paused, and now is not."""
    if _may_collect(stores):
        return False
    clear(stores.artifacts, examined, instead_of=marked)
    return _may_collect(stores)  # it may have been paused anew


def _may_collect(stores: Stores) -> bool:
    try:
        check_cleared(stores.catalogue, stores.artifacts)
    except CollectorPaused:
        return False
    return True


def _embedder(stores: Stores) -> EmbedderSpec:
    """Whose keys the service compares: of its workers, or of the settings' own embedder."""
    # The libraries load for seconds; the command line must not wait for them to print its help.
    settings = stores.settings
    if settings.workers:
        from vlibrary.api.bootstrap import open_fleet

        fleet = open_fleet(settings)
        try:
            return fleet.models()[0].embedder
        finally:
            fleet.close()
    from vlibrary.worker.bootstrap import open_embedder

    return open_embedder(settings).spec


def _show(findings: list[Finding], *, sound: bool, cleared: bool, as_json: bool) -> None:
    if as_json:
        result: dict[str, Any] = {"sound": sound, "findings": [asdict(finding) for finding in findings]}
        print_json(result | {"collector_cleared": cleared})
        return
    table = Table("level", "kind", "detail", "what to do")
    for finding in sorted(findings, key=lambda finding: finding.level, reverse=True)[:SHOWN]:
        table.add_row(finding.level, finding.kind, escape(finding.detail), escape(finding.cure))
    if findings:
        console.print(table)
    if len(findings) > SHOWN:
        console.print(f"... and {len(findings) - SHOWN} more; --json prints all.")
    if cleared:
        console.print("The collector may work again.")
    console.print("[green]Nothing is wrong.[/]" if sound else "[red]Something is wrong.[/]")
