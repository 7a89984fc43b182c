"""`vlibrary gc | backup | restore | migrate`: upkeep of a library, straight on its stores."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from vlibrary.bootstrap import open_backup, open_backup_for_writing, open_operator_stores, read_revisions, read_settings
from vlibrary.cli.output import console, errors, followed, print_json
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.labels import ACTOR_PATTERN
from vlibrary.upkeep.backup import Copied, back_up
from vlibrary.upkeep.backup import restore as restore_backup
from vlibrary.upkeep.collector import Collection, Rules, collect


def check_actor(actor: str) -> str:
    """The actor, if every log can show it. Raises InvalidInput."""
    if not re.fullmatch(ACTOR_PATTERN, actor):
        raise InvalidInput(f"{actor!r:.80} cannot be an actor.", "Give 1 to 128 printable ASCII characters.")
    return actor


Actor = Annotated[
    str, typer.Option(envvar="VLIBRARY_ACTOR", help="Who does this, for the audit log", callback=check_actor)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]
OPERATOR = "operator"


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(gc)
    app.command()(backup)
    app.command()(restore)
    app.command()(migrate)


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed")] = False,
    grace: Annotated[str, typer.Option(help="Leave objects alone that are younger, such as 24h or 7d")] = "24h",
    retention: Annotated[
        str | None, typer.Option(help="Purge vectors that were deleted longer ago, such as 30d; without it, none")
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="Go on after this object key (the cursor of an earlier run)")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Remove at most so many objects a second")] = None,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Remove what nobody can need any more. May be run at any time, several times at once, and broken off."""
    stores = open_operator_stores()
    rules = Rules(duration(grace), None if retention is None else duration(retention), dry_run)
    steps = collect(stores.catalogue, stores.artifacts, rules, actor=actor, after=after, pace=_pace(rate))
    done = followed(steps, _collected)
    if not dry_run:
        stores.catalogue.note("collector.run", "all" if after is None else f"from {after}", asdict(done), actor=actor)
    if as_json:
        print_json(asdict(done) | {"dry_run": dry_run})
        return
    verb = "would be" if dry_run else "were"
    console.print(
        f"{done.removed} of {done.seen} objects {verb} removed ({done.freed:,} bytes); {done.young} are young."
    )
    console.print(f"{done.released} stuck reservations {verb} released, {done.purged} deleted vectors purged.")
    if done.foreign:
        console.print(f"{done.foreign} foreign objects, which no library made, lie among them and are left alone.")


def backup(
    folder: Annotated[Path, typer.Argument(help="Folder of the backup; an older one in it is brought up to date")],
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Lose what the backup in the folder holds, even if the library does not know it"
        ),
    ] = False,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Copy the library into a folder while it is in use. Broken off, it goes on when it is run again.

    It is refused when the library does not know the newest change of the backup in the folder.
    """
    stores = open_operator_stores()
    target = open_backup_for_writing(folder, stores.settings)
    steps = back_up(stores.tables, stores.artifacts, target, replace=replace)
    done = followed(steps, _copied)
    stores.catalogue.note("library.backup", folder.name or ".", _numbers(done), actor=actor)
    _tell_copied(done, "The backup is whole.", "The backup is not whole.", as_json=as_json)


def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of the backup")],
    replace: Annotated[bool, typer.Option("--replace", help="Lose what the library holds now")] = False,
    despite_losses: Annotated[
        bool, typer.Option("--despite-losses", help="Restore the rest when objects of the backup are lost")
    ] = False,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Make the library what it was when the backup was made. Stop collectors first; services may run."""
    stores = open_operator_stores(create=True)
    source = open_backup(folder)
    steps = restore_backup(
        stores.tables, stores.artifacts, source, replace=replace, actor=actor, despite_losses=despite_losses
    )
    done = followed(steps, _copied)
    stores.catalogue.note("library.restore", folder.name or ".", _numbers(done), actor=actor)
    whole = "The library is restored; now run `vlibrary doctor --deep`."
    _tell_copied(done, whole, "The rest of the library is restored.", as_json=as_json)


def migrate(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 1 if something is to do")] = False,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Bring the database's tables to what this release needs, keeping their content."""
    settings = read_settings()
    before = read_revisions(settings)
    if not check:
        stores = open_operator_stores(create=True)
        if not before.current:
            stores.catalogue.note("library.migrate", before.need, {"from": before.have}, actor=actor)
    after = read_revisions(settings)
    if as_json:
        print_json({"before": before.have, "after": after.have, "needed": after.need})
    else:
        console.print(f"Tables: revision {before.have} before, {after.have} now; this release needs {after.need}.")
    if not after.current:
        raise typer.Exit(1)


def duration(text: str) -> timedelta:
    """Of 90s, 15m, 24h or 30d. Raises InvalidInput."""
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    found = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if found is None:
        raise InvalidInput(f"{text!r} is no duration.", "Write a number and s, m, h or d, such as 24h.")
    return timedelta(**{units[found[2]]: int(found[1])})


def _pace(rate: float | None) -> Callable[[], None]:
    return (lambda: time.sleep(1 / rate)) if rate else lambda: None


def _collected(done: Collection) -> str:
    return f"{done.seen} objects seen, {done.removed} removed; go on with --after {done.cursor or repr('')}"


def _copied(done: Copied) -> str:
    return f"{done.done} of {done.total} objects, {done.size:,} bytes copied"


def _numbers(done: Copied) -> dict[str, Any]:
    return {"copied": done.copied, "there": done.there, "bytes": done.size, "lost": list(done.lost)}


def _tell_copied(done: Copied, whole: str, lossy: str, *, as_json: bool) -> None:
    """Ends with exit code 1 when objects are lost."""
    if as_json:
        print_json(_numbers(done))
    else:
        for key in done.lost:
            errors.print(f"[red]Lost:[/] {key}")
        end = lossy if done.lost else whole
        console.print(f"{done.copied} objects copied ({done.size:,} bytes), {done.there} were there. {end}")
    if done.lost:
        errors.print(f"{len(done.lost)} objects are missing or damaged; `vlibrary doctor --deep` names their vectors.")
        raise typer.Exit(1)
