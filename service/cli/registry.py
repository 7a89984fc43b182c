"""Commands that read and manage registered vectors, such as show, audit, download, tag, alias, delete and export."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any, BinaryIO
from unicodedata import normalize

import typer

from vlibrary.cli.output import format_time, print_answer, print_json, print_result, print_rows, print_text, progress
from vlibrary.cli.vectors import LOCAL, AsJson, Metadata, Name, Tags, Url, vector_filter
from vlibrary.client import Client, ServiceError
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.labels import MetadataValue, is_metadata_value
from vlibrary.formats import strict_json
from vlibrary.formats.archive import Archive, open_archive
from vlibrary.formats.hub import UNKNOWN_LICENSE, pack_folder, write_folder
from vlibrary.library.transfer import Outcome
from vlibrary.schemas.registry import ImportedOut
from vlibrary.schemas.vectors import VectorOut

Actor = Annotated[str | None, typer.Option(envvar="VLIBRARY_ACTOR", help="Name to record in the audit log")]
Fixed = Annotated[str, typer.Argument(metavar="VECTOR", help="ID or NAME:VERSION")]
Reference = Annotated[str, typer.Argument(help="ID, NAME:VERSION, NAME@ALIAS, or NAME for its newest version")]
Aliased = Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="For example colour@production")]
NOT_FOUND = 404

aliases = typer.Typer(help="Manage aliases: movable names of vectors, such as colour@production.", no_args_is_help=True)


def tag(
    vector: Fixed,
    add: Annotated[list[str] | None, typer.Option(help="Tag to add; may be repeated")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Tag to remove; may be repeated")] = None,
    put: Annotated[
        list[str] | None,
        typer.Option("--set", help="Set metadata KEY to the text VALUE, as KEY=VALUE; may be repeated"),
    ] = None,
    put_json: Annotated[
        list[str] | None,
        typer.Option("--set-json", help="Set metadata KEY to a number, true or false, as KEY=VALUE; may be repeated"),
    ] = None,
    unset: Annotated[list[str] | None, typer.Option(help="Metadata key to remove; may be repeated")] = None,
    describe: Annotated[str | None, typer.Option(help="New description")] = None,
    actor: Actor = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Change a vector's tags, metadata or description."""
    new = _parse_settings(put or [], put_json or [])
    removed = {normalize("NFC", one) for one in remove or []}
    with Client(url, actor=actor) as service:
        record = service.get_vector(vector)
        amended = service.update_vector(
            vector,
            record.revision,
            description=describe,
            tags=sorted({*record.tags, *(normalize("NFC", one) for one in add or [])} - removed),
            metadata={key: value for key, value in record.metadata.items() if key not in (unset or [])} | new,
        )
    tags = ", ".join(amended.tags) or "no tags"
    values = {key: json.dumps(value, ensure_ascii=False) for key, value in amended.metadata.items()}
    facts = ", ".join(f"{key}={value}" for key, value in values.items()) or "no metadata"
    print_result(amended, f"{_label(amended)}: {tags}; {facts}", as_json=as_json)


@aliases.command("list")
def list_aliases(
    name: Annotated[str | None, typer.Argument(help="Only aliases of the vector with this name")] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """List aliases."""
    with Client(url) as service:
        found = service.list_aliases(name)
    if as_json:
        print_json(found)
        return
    rows = [(f"{one.name}@{one.alias}", one.id, format_time(one.changed_at)) for one in found]
    none = "No aliases. Create one with `vlibrary alias set NAME@ALIAS VECTOR`."
    print_rows(("alias", "vector", "moved"), rows, none=none)


@aliases.command("set")
def set_alias(
    alias: Aliased,
    vector: Reference,
    actor: Actor = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Create or move an alias."""
    name, label = _parts(alias)
    with Client(url, actor=actor) as service:
        now = service.set_alias(name, label, vector, revision=_revision(service, name, label))
    print_result(now, f"{alias} now refers to {now.id}", as_json=as_json)


@aliases.command("drop")
def drop_alias(alias: Aliased, actor: Actor = None, url: Url = LOCAL) -> None:
    """Delete an alias, but not its vector."""
    name, label = _parts(alias)
    with Client(url, actor=actor) as service:
        service.delete_alias(name, label, service.get_alias(name, label).revision)
    print_text(f"Deleted alias {alias}")


def show(
    vector: Reference,
    url: Url = LOCAL,
) -> None:
    """Show a vector's record as JSON."""
    with Client(url) as service:
        print_json(service.get_vector(vector))


def lineage(
    vector: Reference,
    url: Url = LOCAL,
) -> None:
    """Show as JSON from which vectors one was derived, and which are derived from it."""
    with Client(url) as service:
        print_json(service.get_lineage(vector))


def audit(
    subject: Annotated[str | None, typer.Option(help="Only changes of this vector or alias")] = None,
    actor: Annotated[str | None, typer.Option(help="Only changes by this actor")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only entries after this sequence number")] = 0,
    url: Url = LOCAL,
) -> None:
    """Print the audit log, oldest first, one JSON object per line."""
    with Client(url) as service:
        for entry in service.read_audit_log(after=after, subject=subject, actor=actor):
            print_answer(entry.model_dump_json())


def download(
    vector: Reference,
    out: Annotated[
        Path | None, typer.Option(help="File to write, which must not exist", show_default="NAME-VERSION.safetensors")
    ] = None,
    url: Url = LOCAL,
) -> None:
    """Download a vector's artifact."""
    with Client(url) as service:
        record = service.get_vector(vector)
        data = service.get_artifact(record.id)
    path = out or Path(f"{record.name}-{record.version}.safetensors")
    with path.open("xb") as file:
        file.write(data)
    print_text(f"Wrote {path}, {len(data):,} bytes, of {_label(record)}")


def delete(vector: Fixed, actor: Actor = None, url: Url = LOCAL) -> None:
    """Delete a vector; undo with `vlibrary undelete`."""
    with Client(url, actor=actor) as service:
        service.delete_vector(vector)
    print_text(f"Deleted {vector}")


def undelete(vector: Fixed, actor: Actor = None, url: Url = LOCAL) -> None:
    """Restore a deleted vector."""
    with Client(url, actor=actor) as service:
        record = service.restore_vector(vector)
    print_text(f"Restored {_label(record)}")


def purge(vector: Fixed, actor: Actor = None, url: Url = LOCAL) -> None:
    """Remove a deleted vector permanently."""
    with Client(url, actor=actor) as service:
        service.purge_vector(vector)
    print_text(f"Purged {vector}")


def export_file(
    file: Annotated[Path, typer.Argument(help="Archive to write")],
    name: Name = None,
    tags: Tags = None,
    metadata: Metadata = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="Write a folder with a README, to be uploaded to a model hub, instead")
    ] = False,
    licence: Annotated[
        str, typer.Option("--license", help="License in the README of --hub, such as apache-2.0")
    ] = UNKNOWN_LICENSE,
    url: Url = LOCAL,
) -> None:
    """Export vectors to an archive file, or to a folder for a model hub, for `vlibrary import`."""
    if hub and file.exists():
        raise InvalidInput(f"{file} exists already.", "Name a folder that does not exist.")
    if file.is_dir():
        raise InvalidInput(f"{file} is a folder.", "Name the archive file to write, or write a new folder with --hub.")
    draft = file.with_name(f".{file.name}.part")
    try:
        with Client(url) as service, service.export(**vector_filter(name, tags, metadata)) as pieces:
            _write(draft, pieces)
        with draft.open("rb") as written:
            archive = open_archive(written)
            number = len(archive.entries)
            if hub and not number:
                raise InvalidInput("There is no vector to export.", "Check the filters and --url.")
            if hub:
                _write_hub_folder(archive, file, licence)
        if not hub:
            draft.replace(file)
    except OSError as error:
        raise InvalidInput(f"Cannot write {file}: {error.strerror}.", "Check the path and the disk space.") from error
    finally:
        draft.unlink(missing_ok=True)
    print_text(f"Exported {number} {'vector' if number == 1 else 'vectors'} to {file}")


def import_file(
    file: Annotated[Path, typer.Argument(help="Archive or folder written by `vlibrary export`")],
    update: Annotated[
        bool, typer.Option("--update", help="Overwrite description, tags and metadata of existing vectors")
    ] = False,
    actor: Actor = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Import vectors from an archive file or a folder.

    Existing vectors are skipped, so an interrupted import can be rerun.
    """
    results: list[ImportedOut] = []
    with _open_archive_file(file) as archive_file, Client(url, actor=actor) as service, progress() as report:
        archive = open_archive(archive_file)
        for result in service.import_archive(archive, update=update):
            results.append(result)
            report(f"import: {len(results)} of {len(archive.entries)} vectors")
    if as_json:
        print_json(results)
    else:
        _print_results(results)
    if any(result.outcome is Outcome.REFUSED for result in results):
        raise typer.Exit(1)


def _write_hub_folder(archive: Archive, folder: Path, licence: str) -> None:
    """Write the whole folder or nothing."""
    draft = folder.with_name(f".{folder.name}.folder")
    shutil.rmtree(draft, ignore_errors=True)  # of an interrupted export
    draft.mkdir()
    try:
        write_folder(archive, draft, licence)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _open_archive_file(path: Path) -> Iterator[BinaryIO]:
    """Yield the archive, or the archive that a folder contains."""
    if path.is_dir():
        with TemporaryFile() as file:
            file.writelines(pack_folder(path))
            yield file
    else:
        try:
            archive = path.open("rb")
        except OSError as error:
            raise InvalidInput(
                f"Cannot read {path}: {error.strerror}.", "Check the path and its permissions."
            ) from error
        with archive:
            yield archive


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    """Write all pieces and flush them to disk."""
    size = 0
    with path.open("wb") as out, progress() as report:
        for piece in pieces:
            size += out.write(piece)
            report(f"export: {size:,} bytes")
        out.flush()
        os.fsync(out.fileno())


def _print_results(results: list[ImportedOut]) -> None:
    for result in results:
        if result.problem is not None:
            print_text(f"{result.name} {result.id}: {result.problem.detail} {result.problem.cure}")
        elif result.outcome is Outcome.DIFFERS:
            print_text(f"{_label(result)} {result.id} has a different description, tags or metadata")
    counts = Counter(str(result.outcome) for result in results)
    summary = f"{counts['imported']} imported, {counts['present']} already present, {counts['refused']} refused"
    if counts["updated"]:
        summary += f", {counts['updated']} updated"
    if counts["differs"]:
        summary += f"; {counts['differs']} differ and were left alone; --update overwrites them unless deleted"
    print_text(summary)


def _parse_settings(texts: list[str], values: list[str]) -> dict[str, MetadataValue]:
    """Return the metadata that --set and --set-json name. A text stays a text even if it looks like a number."""
    found: dict[str, MetadataValue] = {}
    for option, text in [("--set", text) for text in texts] + [("--set-json", text) for text in values]:
        key, mark, value = text.partition("=")
        if not mark:
            raise InvalidInput(f"{option} {text!r:.80} has no value.", f"Use {option} KEY=VALUE.")
        if key in found:
            raise InvalidInput(f"The metadata key {key!r:.80} is set twice.", "Set it once.")
        found[key] = value if option == "--set" else _parse_json(text, value)
    return found


def _parse_json(setting: str, text: str) -> Any:
    try:
        value = strict_json.parse(text)
    except ValueError:
        value = None
    if not is_metadata_value(value):
        raise InvalidInput(
            f"--set-json {setting!r:.80} has no number, true, false or text in quotation marks.",
            "Use --set KEY=VALUE for a text, or --set-json KEY=16.",
        )
    return value


def _parts(alias: str) -> tuple[str, str]:
    name, mark, label = alias.partition("@")
    if not (name and mark and label):
        raise InvalidInput(f"Invalid alias {alias!r}.", "Use NAME@ALIAS, such as colour@production.")
    return name, label


def _revision(service: Client, name: str, alias: str) -> int | None:
    """Return the revision of the alias; None if it does not exist yet."""
    try:
        return service.get_alias(name, alias).revision
    except ServiceError as error:
        if error.status != NOT_FOUND:
            raise
        return None


def _label(record: VectorOut | ImportedOut) -> str:
    return f"{record.name} version {record.version}"
