"""`vlibrary doctor`: checks a running service or, with --deep, examines the library's stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from vlibrary.cli.examination import print_diagnosis, run_examination
from vlibrary.cli.output import print_json, print_rows
from vlibrary.cli.upkeep import OPERATOR, Actor
from vlibrary.cli.vectors import LOCAL, AsJson, Url
from vlibrary.client import Client
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.query import EmbedderSpec
from vlibrary.upkeep.doctor import Scope, diagnose
from vlibrary.upkeep.findings import Finding
from vlibrary.upkeep.index_check import find_index_damage

if TYPE_CHECKING:
    from vlibrary.bootstrap import OpenStores

deep_option = partial(typer.Option, rich_help_panel="Options for --deep")


def doctor(
    url: Url = LOCAL,
    deep: Annotated[bool, typer.Option("--deep", help="Examine the stores directly; needs no running service")] = False,
    sample: Annotated[float, deep_option(min=0, max=1, help="Share of objects to read and hash")] = 1.0,
    cursor: Annotated[str | None, deep_option(help="Resume an examination from the cursor that it printed")] = None,
    index: Annotated[bool, deep_option("--index/--no-index", help="Examine the index snapshot")] = True,
    repair_index: Annotated[
        bool, deep_option("--repair-index", help="Save a new index snapshot if none is correct")
    ] = False,
    take_over: Annotated[
        bool, deep_option("--take-over", help="Ignore markers of other libraries and unfinished restorations")
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
    # Imported late, because the stores' libraries are slow to load and optional.
    from vlibrary.bootstrap import new_index, open_operator_stores

    stores = open_operator_stores()
    check_index: Callable[[], Sequence[Finding]] = tuple
    if index:
        open_index = partial(new_index, _open_embedder(stores))
        check_index = partial(find_index_damage, stores.catalogue, stores.snapshots, open_index, repair=repair_index)
    steps = diagnose(stores.catalogue, stores.artifacts, scope, actor=actor, check_index=check_index)
    diagnosis = run_examination(steps, cursor)
    print_diagnosis(diagnosis, complete=scope.complete, as_json=as_json)
    if not diagnosis.sound:
        raise typer.Exit(1)


def _check_service(url: str, *, as_json: bool) -> None:
    with Client(url) as service:
        report = service.get_readiness()
    if as_json:
        print_json(report)
    else:
        rows = [
            (check.name, Text("yes", "green") if check.ok else Text("no", "red"), check.detail)
            for check in report.checks
        ]
        print_rows(("part", "works", "detail"), rows, none="No checks.")
    if not report.ready:
        raise typer.Exit(1)


def _open_embedder(stores: OpenStores) -> EmbedderSpec:
    """Return the embedder whose keys the service compares: that of its workers, or the one in the settings."""
    # Imported here because the model libraries take seconds to load, which would delay `vlibrary --help`.
    if stores.settings.workers:
        from vlibrary.api.bootstrap import open_fleet

        with closing(open_fleet(stores.settings)) as fleet:
            return fleet.models()[0].embedder
    from vlibrary.worker.bootstrap import open_embedder

    return open_embedder(stores.settings).spec
