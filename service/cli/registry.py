"""`vlibrary tag | alias | delete | undelete | purge | export | import`: what else a library's keeper does."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vlibrary.cli.output import console, moment, print_json, print_rows, progress
from vlibrary.cli.vectors import LOCAL, AsJson, Url
from vlibrary.cli.which import Metadata, Name, Tags, which_of
from vlibrary.client import Client, ServiceError
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.labels import MetadataValue
from vlibrary.formats.archive import open_archive
from vlibrary.library.transfer import Outcome
from vlibrary.schemas.registry import ImportedOut
from vlibrary.schemas.vectors import VectorOut

Actor = Annotated[str | None, typer.Option(envvar="VLIBRARY_ACTOR", help="Who does this, for the service's audit log")]
Fixed = Annotated[str, typer.Argument(metavar="VECTOR", help="Id or name:3")]
Aliased = Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="Such as colour@production")]
NOT_FOUND = 404

aliases = typer.Typer(help="Names that move from vector to vector: colour@production.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(tag)
    app.add_typer(aliases, name="alias")
    app.command()(delete)
    app.command()(undelete)
    app.command()(purge)
    app.command("export")(export_file)
    app.command("import")(import_file)


def tag(
    vector: Fixed,
    add: Annotated[list[str] | None, typer.Option(help="Tag to add; may repeat")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Tag to remove; may repeat")] = None,
    put: Annotated[
        list[str] | None, typer.Option("--set", help="Metadata KEY=VALUE, where 16 is a number; may repeat")
    ] = None,
    unset: Annotated[list[str] | None, typer.Option(help="Metadata key to remove; may repeat")] = None,
    describe: Annotated[str | None, typer.Option(help="New description")] = None,
    actor: Actor = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Change a vector's tags, metadata and description."""
    with Client(url, actor=actor) as service:
        record = service.get_vector(vector)
        amended = service.update_vector(
            vector,
            record.revision,
            description=describe,
            tags=sorted({*record.tags, *(add or [])} - set(remove or [])),
            metadata=_metadata(record.metadata, put or [], unset or []),
        )
    if as_json:
        print_json(amended)
        return
    tags = ", ".join(amended.tags) or "no tags"
    facts = ", ".join(f"{key}={json.dumps(value)}" for key, value in amended.metadata.items()) or "no metadata"
    console.print(f"{_called(amended)}: {tags}; {facts}", markup=False)


@aliases.command("list")
def list_aliases(
    name: Annotated[str | None, typer.Argument(help="Only aliases of this name")] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """List the aliases."""
    with Client(url) as service:
        found = service.list_aliases(name)
    if as_json:
        print_json(found)
        return
    rows = [(f"{one.name}@{one.alias}", one.id, moment(one.changed_at)) for one in found]
    none = "There are no aliases. `vlibrary alias set NAME@ALIAS VECTOR` makes one."
    print_rows(("alias", "vector", "moved"), rows, none=none)


@aliases.command("set")
def set_alias(
    alias: Aliased,
    vector: Annotated[str, typer.Argument(help="Id, name:3, another alias, or the name for its newest version")],
    actor: Actor = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Make an alias, or move it."""
    name, label = _parts(alias)
    with Client(url, actor=actor) as service:
        now = service.set_alias(name, label, vector, revision=_revision(service, name, label))
    if as_json:
        print_json(now)
    else:
        console.print(f"{alias} is now {now.id}", markup=False)


@aliases.command("drop")
def drop_alias(alias: Aliased, actor: Actor = None, url: Url = LOCAL) -> None:
    """Forget an alias; its vector stays."""
    name, label = _parts(alias)
    with Client(url, actor=actor) as service:
        service.delete_alias(name, label, service.get_alias(name, label).revision)
    console.print(f"{alias} is no more", markup=False)


def delete(vector: Fixed, actor: Actor = None, url: Url = LOCAL) -> None:
    """Delete a vector; `vlibrary undelete` brings it back."""
    with Client(url, actor=actor) as service:
        service.delete_vector(vector)
    console.print(f"{vector} is deleted", markup=False)


def undelete(vector: Fixed, actor: Actor = None, url: Url = LOCAL) -> None:
    """Undo a deletion."""
    with Client(url, actor=actor) as service:
        record = service.restore_vector(vector)
    console.print(f"{_called(record)} is back", markup=False)


def purge(vector: Fixed, actor: Actor = None, url: Url = LOCAL) -> None:
    """Forget a deleted vector for good."""
    with Client(url, actor=actor) as service:
        service.purge_vector(vector)
    console.print(f"{vector} is purged", markup=False)


def export_file(
    file: Annotated[Path, typer.Argument(help="Where the archive goes")],
    name: Name = None,
    tags: Tags = None,
    metadata: Metadata = None,
    url: Url = LOCAL,
) -> None:
    """Write vectors into one archive, which `vlibrary import` loads into another library."""
    draft = file.with_name(f".{file.name}.part")
    try:
        with Client(url) as service, service.export(**which_of(name, tags, metadata)) as pieces:
            _write(draft, pieces)
        with draft.open("rb") as written:
            number = len(open_archive(written).entries)
        draft.replace(file)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}.", "Check the path and the space.") from error
    finally:
        draft.unlink(missing_ok=True)
    console.print(f"{number} {'vector is' if number == 1 else 'vectors are'} in {file}", markup=False)


def import_file(
    file: Annotated[Path, typer.Argument(help="An archive that `vlibrary export` wrote")],
    update: Annotated[
        bool, typer.Option("--update", help="Vectors that are there get the archive's description, tags and metadata")
    ] = False,
    actor: Actor = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Load an archive. Doing so again changes nothing, so what was broken off is simply begun anew."""
    try:
        archive_file = file.open("rb")
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.", "Check the path.") from error
    results: list[ImportedOut] = []
    with archive_file, Client(url, actor=actor) as service, progress() as tell:
        archive = open_archive(archive_file)
        for result in service.import_archive(archive, update=update):
            results.append(result)
            tell(f"import: {len(results)} of {len(archive.entries)} vectors")
    if as_json:
        print_json(results)
    else:
        _tell_results(results)
    if any(result.outcome is Outcome.REFUSED for result in results):
        raise typer.Exit(1)


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    """Everything, and safely on the disk."""
    size = 0
    with path.open("wb") as out, progress() as tell:
        for piece in pieces:
            size += out.write(piece)
            tell(f"export: {size:,} bytes")
        out.flush()
        os.fsync(out.fileno())


def _tell_results(results: list[ImportedOut]) -> None:
    for result in results:
        if result.problem is not None:
            console.print(f"{result.name} {result.id}: {result.problem.detail} {result.problem.cure}", markup=False)
        elif result.outcome is Outcome.DIFFERS:
            console.print(f"{_called(result)} {result.id} has another description, tags or metadata", markup=False)
    counts = Counter(str(result.outcome) for result in results)
    told = f"{counts['imported']} imported, {counts['present']} present already, {counts['refused']} refused"
    if counts["updated"]:
        told += f", {counts['updated']} updated"
    if counts["differs"]:
        told += f"; {counts['differs']} differ and stay as they are, unless --update is given and they are not deleted"
    console.print(told)


def _metadata(old: Mapping[str, MetadataValue], put: list[str], unset: list[str]) -> dict[str, MetadataValue]:
    new = {key: value for key, value in old.items() if key not in unset}
    for text in put:
        key, mark, value = text.partition("=")
        if not mark:
            raise InvalidInput(f"--set {text!r} has no value.", "Write --set KEY=VALUE.")
        new[key] = _value(value)
    return new


def _value(text: str) -> Any:
    """A number, true, false or a JSON text where it is one; else the text as it stands."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (str, int, float)) else text


def _parts(alias: str) -> tuple[str, str]:
    name, mark, label = alias.partition("@")
    if not (name and mark and label):
        raise InvalidInput(f"{alias!r} is no alias.", "Write NAME@ALIAS, such as colour@production.")
    return name, label


def _revision(service: Client, name: str, alias: str) -> int | None:
    """What the alias is at; None when there is none yet."""
    try:
        return service.get_alias(name, alias).revision
    except ServiceError as error:
        if error.status != NOT_FOUND:
            raise
        return None


def _called(record: VectorOut | ImportedOut) -> str:
    return f"{record.name} version {record.version}"
