"""`vlibrary gc | backup | restore | reindex | migrate | settings`: operations that need no running service."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vlibrary.cli.output import errors, print_json, print_result, print_rows, print_text, run_steps
from vlibrary.cli.plot import parse_examples
from vlibrary.config import read_settings, settings_in_force
from vlibrary.domain.card import KeyKind, TaskKey, VectorCard
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.labels import check_actor
from vlibrary.domain.query import Query
from vlibrary.upkeep import backup as use_case
from vlibrary.upkeep.backup import CopyProgress
from vlibrary.upkeep.collector import Rules, collect
from vlibrary.upkeep.rekey import Outcome, rekey

if TYPE_CHECKING:
    from vlibrary.models.embedder import Embedder

Actor = Annotated[
    str, typer.Option(envvar="VLIBRARY_ACTOR", help="Name to record in the audit log", callback=check_actor)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON")]
OPERATOR = "operator"


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed")] = False,
    grace: Annotated[str, typer.Option(help="Keep objects younger than this, such as 24h or 7d")] = "24h",
    retention: Annotated[
        str | None, typer.Option(help="Also purge vectors that were deleted longer ago than this, such as 30d")
    ] = None,
    after: Annotated[str | None, typer.Option(help="Resume after this object key, from an earlier run")] = None,
    rate: Annotated[float | None, typer.Option(min=0.01, help="Maximum removals per second")] = None,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Remove expired reservations and objects that no vector references.

    Safe to interrupt and rerun, to run while services are running, and to run several times at once.
    """
    from vlibrary.bootstrap import open_operator_stores

    stores = open_operator_stores()
    rules = Rules(parse_duration(grace), None if retention is None else parse_duration(retention), dry_run)
    pace: Callable[[], None] = (lambda: time.sleep(1 / rate)) if rate else lambda: None
    steps = collect(stores.catalogue, stores.artifacts, rules, actor=actor, after=after, pace=pace)
    done = run_steps(
        steps,
        lambda now: f"{now.seen} objects examined, {now.removed} removed; resume with --after {now.cursor or repr('')}",
    )
    verb = "would be removed" if dry_run else "removed"
    text = (
        f"{done.removed} of {done.seen} objects {verb} ({done.freed:,} bytes); {done.young} are too young.\n"
        f"{done.released} expired reservations and {done.purged} deleted vectors {verb}."
    )
    if done.foreign:
        text += f"\n{done.foreign} foreign objects, which no library created, were left alone."
    print_result(asdict(done) | {"dry_run": dry_run}, text, as_json=as_json)


def backup(
    folder: Annotated[Path, typer.Argument(help="Folder of the backup; an existing backup in it is updated")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Discard the existing backup even if the library lacks some of its changes"),
    ] = False,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Back up the library to a folder.

    Services may keep running. If interrupted, run it again to resume. It refuses to overwrite the backup of another
    library or of a later state.
    """
    from vlibrary.bootstrap import check_backup_folder, open_backup, open_operator_stores

    stores = open_operator_stores()
    check_backup_folder(folder, stores.settings)
    label = folder.name or "."
    steps = use_case.back_up(stores, open_backup(folder), actor=actor, label=label, overwrite=replace)
    done = run_steps(steps, _describe_copy)
    _print_copy(done, "The backup is complete.", "The backup is incomplete.", as_json=as_json)


def restore(
    folder: Annotated[Path, typer.Argument(help="Folder of the backup")],
    replace: Annotated[bool, typer.Option("--replace", help="Discard the current content of the library")] = False,
    despite_losses: Annotated[
        bool, typer.Option("--despite-losses", help="Restore the rest if objects of the backup are lost")
    ] = False,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Restore the library from a backup.

    Stop garbage collections first; services may keep running. Garbage collection is then paused until
    `vlibrary doctor --deep` has found nothing wrong.
    """
    from vlibrary.bootstrap import open_backup, open_operator_stores

    stores = open_operator_stores(create=True)
    source, label = open_backup(folder), folder.name or "."
    steps = use_case.restore(stores, source, actor=actor, label=label, overwrite=replace, despite_losses=despite_losses)
    done = run_steps(steps, _describe_copy)
    complete = "The library is restored. Next, run `vlibrary doctor --deep`."
    _print_copy(done, complete, "The rest of the library is restored.", as_json=as_json)


def reindex(
    embedder: Annotated[
        str | None, typer.Option(help="Folder or hub id of the embedder; by default that of VLIBRARY_EMBEDDER")
    ] = None,
    examples: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="JSONL file with training examples of the vectors of this name; repeatable"
        ),
    ] = None,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Recompute task keys with another embedder, so that a service with this embedder finds the vectors.

    Descriptions are embedded again. The library stores no training queries: vectors that have keys of them need
    --examples, and are listed otherwise. Services may keep running.
    """
    from vlibrary.bootstrap import open_operator_stores
    from vlibrary.worker.bootstrap import open_embedder

    stores = open_operator_stores()
    settings = stores.settings if embedder is None else stores.settings.model_copy(update={"embedder": embedder})
    opened = open_embedder(settings)
    files = dict(parse_examples(text) for text in examples or [])
    found_by = {name: _find_by(name, file, opened, settings.image_formats) for name, file in files.items()}

    def describe(text: str) -> TaskKey | None:
        return TaskKey(KeyKind.DESCRIPTION, opened.embed(Query(text))) if text.strip() else None

    done = [
        (f"{record.name}:{record.version}", outcome)
        for record, outcome in rekey(stores.catalogue, opened.spec, describe, found_by, actor=actor)
    ]
    by_outcome = {outcome.value: [label for label, found in done if found is outcome] for outcome in Outcome}
    counts = ", ".join(f"{len(labels)} {name}" for name, labels in by_outcome.items())
    text = f"{len(done)} vectors for {opened.spec.embedder_id}: {counts}."
    if waiting := by_outcome[Outcome.NEEDS_EXAMPLES]:
        text += f"\nPass --examples NAME=FILE for {', '.join(waiting)}."
    print_result({"embedder": opened.spec.embedder_id} | by_outcome, text, as_json=as_json)


def _find_by(name: str, file: Path, embedder: Embedder, image_formats: Sequence[str]) -> VectorCard:
    """Return a card with the keys that a training on these examples gives a vector."""
    from vlibrary.methods.base import split_examples
    from vlibrary.training.calibration import find_by
    from vlibrary.training.examples import read_examples
    from vlibrary.training.features import embed_examples

    data = split_examples(read_examples(file, file.parent, image_formats=image_formats), seed=0)
    queries, validation = embed_examples(embedder, data.train), embed_examples(embedder, data.validation)
    return VectorCard(name, **find_by(embedder, queries, validation))


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with code 1 if a migration is needed")
    ] = False,
    actor: Actor = OPERATOR,
    as_json: AsJson = False,
) -> None:
    """Create or migrate the database schema that this release needs."""
    from vlibrary.bootstrap import open_operator_stores, read_revisions

    settings = read_settings()
    before = read_revisions(settings)
    if not check:
        stores = open_operator_stores(create=True)
        if not before.current:
            stores.catalogue.audit_log.append("library.migrate", before.need, {"from": before.have}, actor=actor)
    after = read_revisions(settings)
    text = f"Schema revision: {before.have or 'none'} before, {after.have or 'none'} now, {after.need} needed."
    print_result({"before": before.have, "after": after.have, "needed": after.need}, text, as_json=as_json)
    if not after.current:
        raise typer.Exit(1)


def show_settings(as_json: AsJson = False) -> None:
    """Show the effective settings and where each comes from: default, environment or file. Secrets are masked."""
    found = settings_in_force()
    if as_json:
        print_json(found)
    else:
        print_rows(("variable", "value", "source"), [(one.variable, one.value, one.source) for one in found], none="")


def parse_duration(text: str) -> timedelta:
    """Return the duration of a text such as 90s, 15m, 24h or 30d. Raises InvalidInput."""
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    found = re.fullmatch(r"([0-9]{1,5})([smhd])", text)
    if found is None:
        raise InvalidInput(f"Invalid duration {text!r:.80}.", "Use 90s, 15m, 24h or 30d, with at most five digits.")
    return timedelta(**{units[found[2]]: int(found[1])})


def _describe_copy(done: CopyProgress) -> str:
    return f"{done.done} of {done.total} objects, {done.size:,} bytes copied"


def _print_copy(done: CopyProgress, complete: str, incomplete: str, *, as_json: bool) -> None:
    """Print the result; exit with code 1 if objects are lost."""
    end = incomplete if done.lost else complete
    text = f"{done.copied} objects copied ({done.size:,} bytes), {done.there} already present. {end}"
    print_result(done.as_json(), text, as_json=as_json)
    if done.lost:
        if not as_json:
            print_text("\n".join(f"Lost: {key}" for key in done.lost), on=errors)
        lost = f"{len(done.lost)} objects are missing or damaged; `vlibrary doctor --deep` names their vectors."
        print_text(lost, on=errors)
        raise typer.Exit(1)
