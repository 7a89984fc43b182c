"""Vectors as one file that another library can load: a plain tar of artifacts and cards and, last, their manifest.

vectors/<id>.safetensors
vectors/<id>.card.json
manifest.ndjson             one line {"format": "vlibrary-archive-1"}, then one line a vector: Entry

The manifest comes last so that an archive can be written as a stream; one that was cut off has none. Nothing is ever
unpacked onto a disk, so no name in an archive can lead anywhere.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, BinaryIO, Self

from pydantic import Field, TypeAdapter, ValidationError

from vlibrary.domain.card import NAME_PATTERN
from vlibrary.domain.errors import InvalidArchive, TooLarge
from vlibrary.domain.labels import VECTOR_ID_PATTERN

MEDIA_TYPE = "application/x-tar"
MANIFEST = "manifest.ndjson"
MAX_MANIFEST_BYTES = 256 * 2**20
_HEADER = {"format": "vlibrary-archive-1"}
_BLOCK = tarfile.BLOCKSIZE
_CURE = "Export it again: `vlibrary export FILE`, or GET /export."


@dataclass(frozen=True)
class Entry:
    """A vector's line in the manifest. version: in the library that it comes from. sha256, size: of the artifact."""

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
    """A vector with its bytes. card: as vlibrary.formats.card writes it."""

    entry: Entry
    artifact: bytes
    card: bytes

    @classmethod
    def of(cls, vector_id: str, name: str, version: int, artifact: bytes, card: bytes) -> Self:
        """The item with the digests in its entry."""
        return cls(Entry(vector_id, name, version, _sha256(artifact), len(artifact), _sha256(card)), artifact, card)


def pack(items: Iterable[Item]) -> Iterator[bytes]:
    """The archive of these vectors, in pieces. Holds one of them at a time, and the manifest (some 300 bytes each)."""
    lines = [json.dumps(_HEADER)]
    for item in items:
        yield from _member(item.entry.artifact_path, item.artifact)
        yield from _member(item.entry.card_path, item.card)
        lines.append(json.dumps(asdict(item.entry)))
    yield from _member(MANIFEST, "".join(f"{line}\n" for line in lines).encode())
    yield bytes(2 * _BLOCK)


@dataclass(frozen=True)
class Archive:
    """An archive that was opened. entries: by name and version, so that another library keeps their order."""

    file: BinaryIO
    members: dict[str, tuple[int, int]]
    entries: tuple[Entry, ...]

    def item(self, entry: Entry, *, artifact_bytes: int, card_bytes: int) -> Item:
        """The vector of one of the entries. Raises InvalidArchive for altered bytes, TooLarge beyond these sizes."""
        artifact = self._bytes(entry.artifact_path, entry.sha256, artifact_bytes)
        return Item(entry, artifact, self._bytes(entry.card_path, entry.card_sha256, card_bytes))

    def _bytes(self, path: str, sha256: str, most: int) -> bytes:
        data = _read(self.file, self.members, path, most)
        if _sha256(data) != sha256:
            raise InvalidArchive(f"{path} does not have the digest that the manifest gives.", _CURE)
        return data


def open_archive(file: BinaryIO) -> Archive:
    """The archive in a file that can be sought in and stays open. Raises InvalidArchive, or TooLarge (its manifest)."""
    members = _members(file)
    header, *lines = _read(file, members, MANIFEST, MAX_MANIFEST_BYTES).splitlines() or [b""]
    if header.strip() != json.dumps(_HEADER).encode():
        raise InvalidArchive(
            f"The manifest begins with {header[:80]!r}.", f"Load archives of {_HEADER['format']}; update this library."
        )
    entries = [_entry(line, number) for number, line in enumerate(lines, start=2)]
    if len({entry.id for entry in entries}) < len(entries):
        raise InvalidArchive("The manifest names a vector twice.", _CURE)
    return Archive(file, members, tuple(sorted(entries, key=lambda entry: (entry.name, entry.version))))


def _member(path: str, data: bytes) -> Iterator[bytes]:
    header = tarfile.TarInfo(path)
    header.size = len(data)
    yield header.tobuf(tarfile.USTAR_FORMAT)
    yield data + bytes(-len(data) % _BLOCK)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _entry(line: bytes, number: int) -> Entry:
    try:
        return TypeAdapter(Entry).validate_json(line, strict=True)
    except ValidationError as error:
        told = error.errors(include_url=False)[0]
        where = ".".join(map(str, told["loc"]))
        raise InvalidArchive(f"Line {number} of the manifest: {where} {told['msg']}.", _CURE) from error


class _PlainFile(tarfile.TarInfo):
    """Refuses whatever is no plain file before tarfile acts on it: links, devices, sparse files, extended headers.

    A negative or absurd size would have tarfile seek in circles or beyond what it can.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not 0 <= member.size < 2**53:
            raise InvalidArchive(f"The archive's member {member.name!r:.120} is no plain file.", _CURE)
        return member


def _members(file: BinaryIO) -> dict[str, tuple[int, int]]:
    """Offset and size by name. Raises InvalidArchive."""
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:", tarinfo=_PlainFile) as tar:
            found = tar.getmembers()
    except (tarfile.TarError, ValueError) as error:
        raise InvalidArchive(f"This is no whole tar archive: {error}.", _CURE) from error
    members = {member.name: (member.offset_data, member.size) for member in found}
    if len(members) < len(found):
        raise InvalidArchive("The archive has two members of one name.", _CURE)
    if MANIFEST not in members:
        raise InvalidArchive(f"The archive has no {MANIFEST}: it was cut off, or is none of ours.", _CURE)
    return members


def _read(file: BinaryIO, members: dict[str, tuple[int, int]], path: str, most: int) -> bytes:
    if path not in members:
        raise InvalidArchive(f"{path} is missing from the archive.", _CURE)
    offset, size = members[path]
    if size > most:
        raise TooLarge(f"{path} has {size:,} bytes.", f"At most {most:,} bytes are taken.")
    file.seek(offset)
    return file.read(size)
