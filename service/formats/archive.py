"""An archive of vectors for transfer to another library: a plain tar of artifacts, cards and a manifest.

vectors/<id>.safetensors
vectors/<id>.card.json
manifest.ndjson             one line {"format": "vlibrary-archive-1"}, then one Entry per line

The manifest comes last so that an archive can be written as a stream; a truncated archive has none. Members are never
unpacked to disk, so that no member name can cause path traversal.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Annotated, BinaryIO, Self

from pydantic import Field, TypeAdapter, ValidationError

from vlibrary.domain.card import NAME_PATTERN
from vlibrary.domain.errors import InvalidArchive, TooLarge
from vlibrary.domain.labels import VECTOR_ID_PATTERN
from vlibrary.formats import strict_json
from vlibrary.formats.foreign import recognise

MEDIA_TYPE = "application/x-tar"
MANIFEST = "manifest.ndjson"
MAX_MANIFEST_BYTES = 256 * 2**20
_HEADER = {"format": "vlibrary-archive-1"}
_BLOCK = tarfile.BLOCKSIZE
_CURE = "Export it again: `vlibrary export FILE`, or GET /export."
_OTHER = "Give the file that `vlibrary export FILE` or GET /export wrote, uncompressed."
_LOOK = 64 * 1024  # bytes at either end
_MEMBERS_EACH = 2  # artifact and card of a vector


@dataclass(frozen=True)
class Entry:
    """A vector's line in the manifest. version: in the exporting library. sha256, size: of the artifact."""

    id: Annotated[str, Field(pattern=VECTOR_ID_PATTERN)]
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[int, Field(ge=1, lt=2**53)]
    sha256: str
    size: Annotated[int, Field(ge=0, lt=2**53)]
    card_sha256: str

    @property
    def artifact_path(self) -> str:
        return f"vectors/{self.id}.safetensors"

    @property
    def card_path(self) -> str:
        return f"vectors/{self.id}.card.json"


@dataclass(frozen=True)
class Item:
    """A vector with its bytes. card: JSON as written by vlibrary.formats.card."""

    entry: Entry
    artifact: bytes
    card: bytes

    @classmethod
    def of(cls, vector_id: str, name: str, version: int, artifact: bytes, card: bytes) -> Self:
        """Return the item, with its digests in the entry."""
        return cls(Entry(vector_id, name, version, _sha256(artifact), len(artifact), _sha256(card)), artifact, card)


def pack(items: Iterable[Item]) -> Iterator[bytes]:
    """Yield the archive in chunks. Memory: one vector at a time, and about 300 bytes of manifest per vector."""
    lines = [json.dumps(_HEADER)]
    for item in items:
        yield from member(item.entry.artifact_path, item.artifact)
        yield from member(item.entry.card_path, item.card)
        lines.append(json.dumps(asdict(item.entry)))
    yield from member(MANIFEST, "".join(f"{line}\n" for line in lines).encode())
    yield end_of_archive()


@dataclass(frozen=True)
class Archive:
    """An open archive. members: offset and size by path. entries: by name and version, the order of an import."""

    file: BinaryIO
    members: dict[str, tuple[int, int]]
    entries: tuple[Entry, ...]

    def item(self, entry: Entry, *, artifact_bytes: int, card_bytes: int) -> Item:
        """Return the vector of an entry. Raises InvalidArchive for altered bytes, TooLarge beyond the given sizes."""
        artifact = self._read_checked(entry.artifact_path, entry.sha256, artifact_bytes)
        return Item(entry, artifact, self._read_checked(entry.card_path, entry.card_sha256, card_bytes))

    def manifest(self) -> bytes:
        """Return the manifest as it is in the archive."""
        return _read(self.file, self.members, MANIFEST, MAX_MANIFEST_BYTES)

    def _read_checked(self, path: str, sha256: str, limit: int) -> bytes:
        data = _read(self.file, self.members, path, limit)
        if _sha256(data) != sha256:
            foreign = recognise(data) if path.endswith(".safetensors") else None
            raise InvalidArchive(
                f"The digest of {path} differs from the manifest{f': it is {foreign.what}' if foreign else ''}.",
                foreign.cure if foreign else _CURE,
            )
        return data


def open_archive(file: BinaryIO, max_entries: int | None = None) -> Archive:
    """Open the archive in a seekable file that stays open.

    max_entries: of vectors; more are refused before they are all read. Raises InvalidArchive, or TooLarge for the
    manifest.
    """
    members = _members(file, None if max_entries is None else _MEMBERS_EACH * max_entries + 1)
    manifest = _read(file, members, MANIFEST, MAX_MANIFEST_BYTES).removesuffix(b"\n")
    count = manifest.count(b"\n")
    if max_entries is not None and count > max_entries:
        raise _too_many(f"{count:,} vectors")
    header, *lines = manifest.split(b"\n")
    if header.strip() != json.dumps(_HEADER).encode():
        raise InvalidArchive(
            f"The manifest begins with {header[:80]!r}, not with format {_HEADER['format']}.",
            "Export the archive again with this release.",
        )
    entries = [_parse_entry(line, number) for number, line in enumerate(lines, start=2)]
    if len({entry.id for entry in entries}) < len(entries):
        raise InvalidArchive("The manifest lists a vector twice.", _CURE)
    return Archive(file, members, tuple(sorted(entries, key=lambda entry: (entry.name, entry.version))))


def member(path: str, data: bytes) -> Iterator[bytes]:
    """Yield one file of an archive."""
    header = tarfile.TarInfo(path)
    header.size = len(data)
    yield header.tobuf(tarfile.USTAR_FORMAT)
    yield data + bytes(-len(data) % _BLOCK)


def end_of_archive() -> bytes:
    """Return the bytes that end an archive."""
    return bytes(2 * _BLOCK)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _parse_entry(line: bytes, number: int) -> Entry:
    try:
        strict_json.parse(line)
        return TypeAdapter(Entry).validate_json(line, strict=True)
    except ValidationError as error:
        problem = strict_json.explain(error)
    except ValueError as error:
        problem = str(error)
    raise InvalidArchive(f"Line {number} of the manifest is invalid: {problem}.", _CURE)


class _PlainFile(tarfile.TarInfo):
    """A member header that must be a plain file; refuses links, devices, sparse files and extended headers.

    It also refuses negative and huge sizes, with which tarfile would seek backwards or out of range.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not 0 <= member.size < 2**53:
            raise InvalidArchive(f"The archive's member {member.name!r:.120} is not a plain file.", _CURE)
        return member


def _ends(file: BinaryIO) -> bytes:
    """Return the beginning and the end of the file, by which formats are recognised."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    beginning = file.read(_LOOK)
    file.seek(max(len(beginning), size - _LOOK))
    return beginning + file.read()


def _members(file: BinaryIO, limit: int | None) -> dict[str, tuple[int, int]]:
    """Return offset and size by member name. Raises InvalidArchive, also for more members than the limit."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_PlainFile) as tar:
            found = list(islice(tar, None if limit is None else limit + 1))
    except (tarfile.TarError, ValueError) as error:
        if (foreign := recognise(_ends(file))) is not None:
            raise InvalidArchive(f"The file is not an archive of vectors; it is {foreign.what}.", _OTHER) from error
        raise InvalidArchive(f"The file is not a complete tar archive: {error}.", _CURE) from error
    if limit is not None and len(found) > limit:
        raise _too_many(f"more than {limit:,} members")
    members = {member.name: (member.offset_data, member.size) for member in found}
    if len(members) < len(found):
        raise InvalidArchive("The archive has two members with the same name.", _CURE)
    if MANIFEST not in members:
        raise InvalidArchive(f"The archive has no {MANIFEST}; it is truncated or was not written by VLibrary.", _CURE)
    return members


def _too_many(what: str) -> InvalidArchive:
    return InvalidArchive(
        f"The archive has {what}.", "Send fewer vectors per request; `vlibrary import` splits large archives."
    )


def _read(file: BinaryIO, members: dict[str, tuple[int, int]], path: str, limit: int) -> bytes:
    if path not in members:
        raise InvalidArchive(f"{path} is missing from the archive.", _CURE)
    offset, size = members[path]
    if size > limit:
        raise TooLarge(f"{path} has {size:,} bytes.", f"The limit is {limit:,} bytes.")
    file.seek(offset)
    return file.read(size)
