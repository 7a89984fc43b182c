"""Archives: what leaves one library arrives in another, and what was made to hurt is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.library import memory_library, register
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.catalogue import MemoryRegistrations, memory_catalogue
from tests.support.memory.worker import MODEL
from tests.support.samples import artifact, card
from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.errors import (
    ArtifactLost,
    InvalidArchive,
    InvalidArtifact,
    TooLarge,
    VectorExists,
    VLibraryError,
    WrongModel,
)
from vlibrary.domain.filters import Filter
from vlibrary.domain.query import Query
from vlibrary.domain.registration import Upload
from vlibrary.formats.archive import MANIFEST, Item, open_archive, pack
from vlibrary.formats.card import parse_card
from vlibrary.library.library import Library
from vlibrary.library.publish import Submission, publish
from vlibrary.library.retrieve import retrieve
from vlibrary.library.transfer import Loaded, Loader, Outcome, export

HUE = "Which hue has the shape?"
FIRST, SECOND = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B", "01K9Z4T0XJ4V6W8M2Q5R7S9A1C"


def item(vector_id: str = FIRST, *, name: str = "colour", version: int = 1, seed: int = 0, **card_more: Any) -> Item:
    text = card(name, HUE, **card_more).encode()
    return Item.of(vector_id, name, version, artifact(MODEL, seed), text)


def exported(library: Library, which: Filter | None = None) -> bytes:
    return b"".join(
        export(
            which or Filter(),
            library=library,
        )
    )


def load(library: Library, data: bytes, *, artifact_bytes: int = 10_000) -> list[Loaded]:
    loader = Loader(
        library=library,
        artifact_bytes=artifact_bytes,
        card_bytes=20_000,
    )
    return list(loader.load(open_archive(io.BytesIO(data)), actor="ann"))


def outcomes(loaded: list[Loaded]) -> list[Outcome]:
    return [one.outcome for one in loaded]


def refusals(loaded: list[Loaded]) -> list[type[VLibraryError] | None]:
    return [None if one.error is None else type(one.error) for one in loaded]


def known(record: VectorRecord) -> tuple[Any, ...]:
    plain = replace(record.card, keys=())
    return (record.id, record.version, plain, record.sha256, record.model, record.training, len(record.card.keys))


def test_another_library_gets_the_same_vectors() -> None:
    source, target = memory_library(), memory_library()
    root = register(source, "colour", HUE, seed=1)
    more = {"tags": ["checked"], "metadata": {"shots": 16, "ok": True}, "derived_from": [root.id]}
    submission = Submission(artifact(MODEL, 2), parse_card(card("colour", HUE, results={"steered": 0.9}, **more)))
    publish(submission, source)

    loaded = load(target, exported(source))
    assert outcomes(loaded) == [Outcome.IMPORTED] * 2
    ours = [target.catalogue.vectors.get(record.id) for record in source.catalogue.vectors.page(limit=5).records]
    theirs = source.catalogue.vectors.page(limit=5).records
    assert list(map(known, ours)) == list(map(known, theirs))
    for mine, other in zip(ours, theirs, strict=True):
        assert target.artifacts.get(mine.object_key, mine.sha256) == source.artifacts.get(
            other.object_key, other.sha256
        )
        assert mine.object_key != other.object_key
    found = retrieve(Query(text=HUE), target, k=5, model_id=None)
    assert {match.record.id for match in found.matches} == {record.id for record in theirs}
    assert {entry.actor for entry in target.catalogue.audit_log.read(0, 9)} == {"ann"}


def test_importing_twice_changes_nothing() -> None:
    source, target = memory_library(), memory_library()
    for seed in (1, 2):
        register(source, "colour", HUE, seed=seed)
    data = exported(source)
    load(target, data)
    before = (target.catalogue.change_log.position(), target.catalogue.audit_log.read(0, 99))
    again = load(target, data)
    assert outcomes(again) == [Outcome.PRESENT] * 2
    assert (target.catalogue.change_log.position(), target.catalogue.audit_log.read(0, 99)) == before
    assert outcomes(load(source, data)) == [Outcome.PRESENT] * 2


def test_an_interrupted_import_can_continue_with_a_newer_archive() -> None:
    class Dying(MemoryArtifacts):
        dying = True

        def put(self, key: str, data: bytes, sha256: str) -> None:
            if self.dying:
                raise KeyboardInterrupt
            super().put(key, data, sha256)

    artifacts = Dying()
    there = replace(memory_library(), artifacts=artifacts)
    with pytest.raises(KeyboardInterrupt):
        load(there, b"".join(pack([item()])))
    artifacts.dying = False
    (done,) = load(there, b"".join(pack([item(tags=["newer"])])))
    assert done.record is not None
    assert (done.outcome, done.record.card.tags) == (Outcome.IMPORTED, ("newer",))


def test_no_client_can_send_the_key_of_an_import() -> None:
    keys: list[str] = []

    class RecordingRegistrations(MemoryRegistrations):
        def reserve(self, upload: Upload) -> VectorRecord | None:
            keys.append(upload.idempotency_key)
            return super().reserve(upload)

    catalogue = memory_catalogue(registrations=RecordingRegistrations)
    load(replace(memory_library(), catalogue=catalogue), b"".join(pack([item()])))
    with pytest.raises(UnicodeEncodeError):
        keys[0].encode("latin-1")  # as headers are


def test_an_import_does_not_restore_a_deleted_vector() -> None:
    source, target = memory_library(), memory_library()
    record = register(source, "colour", HUE)
    data = exported(source)
    load(target, data)
    target.catalogue.vectors.delete(record.id)
    (loaded,) = load(target, data)
    assert loaded.outcome is Outcome.PRESENT
    assert loaded.record is not None
    assert loaded.record.status is Status.DELETED


def test_imported_versions_follow_the_existing_ones_in_order() -> None:
    source, target = memory_library(), memory_library()
    records = [register(source, "colour", HUE, seed=seed) for seed in range(12)]
    register(target, "colour", HUE, seed=99)
    loaded = load(target, exported(source))
    assert [one.entry.id for one in loaded] == [record.id for record in records]
    assert [one.record.version for one in loaded if one.record] == list(range(2, 14))


def test_an_export_applies_the_filter() -> None:
    library = memory_library()
    register(library, "colour", HUE)
    register(library, "count", HUE)
    archive = open_archive(io.BytesIO(exported(library, Filter(name="count"))))
    assert [entry.name for entry in archive.entries] == ["count"]
    assert open_archive(io.BytesIO(exported(library, Filter(name="none")))).entries == ()


def test_an_export_with_a_lost_artifact_fails_and_cannot_be_loaded() -> None:
    library = memory_library()
    for seed in (1, 2):
        register(library, "colour", HUE, seed=seed)
    lost = library.catalogue.vectors.page(limit=2).records[1]
    library.artifacts.delete(lost.object_key)
    pieces: list[bytes] = []
    with pytest.raises(ArtifactLost):
        pieces.extend(
            export(
                Filter(),
                library=library,
            )
        )
    with pytest.raises(InvalidArchive):
        load(memory_library(), b"".join(pieces))


def test_tar_itself_reads_an_archive() -> None:
    library = memory_library()
    record = register(library, "colour", HUE)
    with tarfile.open(fileobj=io.BytesIO(exported(library))) as tar:
        assert tar.getnames() == [f"vectors/{record.id}.safetensors", f"vectors/{record.id}.card.json", MANIFEST]
        manifest = tar.extractfile(MANIFEST)
        assert manifest is not None
        lines = [json.loads(line) for line in manifest]
    assert lines[0] == {"format": "vlibrary-archive-1"}
    assert (lines[1]["id"], lines[1]["sha256"], lines[1]["version"]) == (record.id, record.sha256, 1)


def test_an_archive_is_opened_at_any_file_position() -> None:
    file = io.BytesIO()
    file.writelines(pack([item()]))
    archive = open_archive(file)
    assert archive.item(archive.entries[0], artifact_bytes=10_000, card_bytes=10_000) == item()


def test_one_invalid_vector_does_not_stop_the_others() -> None:
    library = memory_library()
    items = [
        item(FIRST, version=1),
        Item.of(SECOND, "colour", 2, b"no vector", card("colour", HUE).encode()),
        Item.of("01K9Z4T0XJ4V6W8M2Q5R7S9A1D", "colour", 3, artifact(MODEL), card("count", HUE).encode()),
        Item.of(
            "01K9Z4T0XJ4V6W8M2Q5R7S9A1E",
            "colour",
            4,
            artifact(replace(MODEL, fingerprint="9" * 64)),
            card("colour", HUE).encode(),
        ),
    ]
    loaded = load(library, b"".join(pack(items)))
    assert refusals(loaded) == [None, InvalidArtifact, InvalidArchive, WrongModel]
    assert len(library.catalogue.vectors.page(limit=9).records) == 1


def test_each_wrong_digest_is_refused() -> None:
    good = item()
    for path in (good.entry.artifact_path, good.entry.card_path):
        data = bytearray(b"".join(pack([good, item(SECOND, version=2)])))
        at = data.index(path.encode()) + tarfile.BLOCKSIZE
        data[at + 20] ^= 1
        loaded = load(memory_library(), bytes(data))
        assert refusals(loaded) == [InvalidArchive, None]
        assert "digest" in str(loaded[0].error)


def test_a_vector_beyond_the_limits_is_refused() -> None:
    (loaded,) = load(memory_library(), b"".join(pack([item()])), artifact_bytes=100)
    assert isinstance(loaded.error, TooLarge)


def test_an_id_of_a_different_vector_is_refused() -> None:
    library = memory_library()
    load(library, b"".join(pack([item(seed=1)])))
    (loaded,) = load(library, b"".join(pack([item(seed=2)])))
    assert isinstance(loaded.error, VectorExists)


def tar_of(*members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, **more: Any) -> bytes:
    """A tar whose first member is of this kind."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, data in members:
            info = tarfile.TarInfo(path)
            info.type, info.size = kind, len(data)
            for name, value in more.items():
                setattr(info, name, value)
            tar.addfile(info, io.BytesIO(data))
            kind, more = tarfile.REGTYPE, {}
    return out.getvalue()


def manifest(*lines: object) -> tuple[str, bytes]:
    manifest = [{"format": "vlibrary-archive-1"}, *lines]
    return MANIFEST, "".join(json.dumps(line) + "\n" for line in manifest).encode()


def with_size(size: int) -> bytes:
    """An archive whose first header claims this size."""
    info = tarfile.TarInfo("a")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size.to_bytes(12, "big", signed=True)
    header[124] = 0o377 if size < 0 else 0o200
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    return bytes(header) + bytes(1024)


ENTRY = {"id": FIRST, "name": "colour", "version": 1, "sha256": "0" * 64, "size": 1, "card_sha256": "0" * 64}
HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no tar": lambda: b"<html>" * 200,
    "compressed": lambda: bytes.fromhex("1f8b0800000000000003") + bytes(600),
    "cut off in the middle": lambda: b"".join(pack([item()]))[:700],
    "without its manifest": lambda: tar_of(("a", b"")),
    "another format": lambda: tar_of((MANIFEST, b'{"format": "vlibrary-archive-9"}\n')),
    "an empty manifest": lambda: tar_of((MANIFEST, b"")),
    "a manifest that is no JSON": lambda: tar_of((MANIFEST, manifest()[1] + b"{\n")),
    "a path for an id": lambda: tar_of(manifest(ENTRY | {"id": "../../../../../etc/passwd"})),
    "a path for a name": lambda: tar_of(manifest(ENTRY | {"name": "../colour"})),
    "a version that is no number": lambda: tar_of(manifest(ENTRY | {"version": True})),
    "a field too few": lambda: tar_of(manifest({"id": FIRST})),
    "a vector twice": lambda: tar_of(manifest(ENTRY, ENTRY)),
    "a symbolic link": lambda: tar_of(("a", b""), manifest(), kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
    "a hard link": lambda: tar_of(("a", b""), manifest(), kind=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "a device": lambda: tar_of(("a", b""), manifest(), kind=tarfile.CHRTYPE),
    "a folder": lambda: tar_of(("a", b""), manifest(), kind=tarfile.DIRTYPE),
    "a sparse file": lambda: tar_of(("a", b""), manifest(), kind=tarfile.GNUTYPE_SPARSE),
    "a long name's header": lambda: tar_of(("a" * 300, b""), manifest()),
    "two members of one name": lambda: tar_of(("a", b"1"), ("a", b"2"), manifest()),
    "a negative size": lambda: with_size(-512),
    "an absurd size": lambda: with_size(2**80),
    "a size beyond the end": lambda: with_size(2**40),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_an_invalid_archive_is_refused(case: str) -> None:
    with pytest.raises(InvalidArchive) as refused:
        open_archive(io.BytesIO(HOSTILE[case]()))
    assert refused.value.cure


def test_a_file_of_another_format_is_named() -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as made:
        made.writestr("a.bin", bytes(100_000))
    files = {
        "a gzip file": gzip.compress(b"".join(pack([item()]))),
        "an HTML page": b"<!doctype html><title>Sign in</title>",
        "a zip archive with a.bin": zipped.getvalue(),
    }
    for what, data in files.items():
        with pytest.raises(InvalidArchive, match=f"not an archive of vectors; it is {what}"):
            open_archive(io.BytesIO(data))


def test_names_outside_the_archive_are_never_followed() -> None:
    data = tar_of(("../../etc/passwd", b"root"), ("/etc/shadow", b"root"), manifest(ENTRY))
    (loaded,) = load(memory_library(), data)
    assert isinstance(loaded.error, InvalidArchive)
    assert "missing" in str(loaded.error)


@given(cut=st.integers(0, 6_000), bit=st.integers(0, 47_999))
def test_a_damaged_archive_never_imports_a_damaged_vector(cut: int, bit: int) -> None:
    whole = b"".join(pack([item(), item(SECOND, version=2, seed=5)]))
    data = bytearray(whole[: len(whole) - cut] if cut % 2 else whole)
    if bit // 8 < len(data):
        data[bit // 8] ^= 1 << bit % 8
    library = memory_library()
    try:
        load(library, bytes(data))
    except InvalidArchive:
        return
    sent = {hashlib.sha256(artifact(MODEL, seed)).hexdigest() for seed in (0, 5)}
    for record in library.catalogue.vectors.page(limit=5).records:
        assert record.sha256 in sent
        assert library.artifacts.get(record.object_key, record.sha256)
        assert (record.name, record.card.description) == ("colour", HUE)
