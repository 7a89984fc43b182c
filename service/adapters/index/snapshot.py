"""The task index's state as a snapshot, and back, without copying: FAISS reads its rows where the file is mapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from mmap import mmap
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from pydantic import TypeAdapter

from vlibrary.adapters.index.model_index import IndexState, ModelIndex
from vlibrary.adapters.index.segment import FLAT, LISTS, Members, SearchParams, Segment
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.ports.snapshots import Snapshot, SnapshotDamaged, SnapshotDraft
from vlibrary.domain.query import EmbedderSpec

MEMBERS = "members"
_MEMBERS = TypeAdapter(tuple[list[str], list[int]])


def snapshot_of(state: IndexState, position: LogPosition, spec: EmbedderSpec) -> SnapshotDraft:
    """Return the state as a snapshot to be saved."""
    files: dict[str, Callable[[Path], None]] = {}
    for model in state.models.values():
        for segment in model.segments:
            files |= _writers(segment)
    body = {"models": {fingerprint: _model_body(model) for fingerprint, model in state.models.items()}}
    return SnapshotDraft(position, spec.fingerprint, body, files)


def state_of(snapshot: Snapshot, spec: EmbedderSpec) -> IndexState:
    """Return the saved state. Raises SnapshotDamaged if another release wrote it, of this service or of FAISS."""
    try:
        return IndexState(
            snapshot.position,
            {fingerprint: _model(body, snapshot.files, spec) for fingerprint, body in snapshot.body["models"].items()},
        )
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise SnapshotDamaged(f"{type(error).__name__}: {error}") from error


def _writers(segment: Segment) -> dict[str, Callable[[Path], None]]:
    """By the name of the piece, what writes it."""
    writers = {_piece(segment, MEMBERS): _members_writer(segment.members), _piece(segment, FLAT): _writer(segment.flat)}
    if segment.lists is not None:
        writers[_piece(segment, LISTS)] = _writer(segment.lists)
    return writers


def _piece(segment: Segment, part: str) -> str:
    return f"{segment.name}.{part}"


def _writer(native: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        try:
            faiss.write_index(native, str(path))
        except RuntimeError as error:  # FAISS's word for a full disk
            raise OSError("FAISS cannot write its index") from error

    return write


def _members_writer(members: Members) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(_MEMBERS.dump_json((list(members.ids), members.counts.tolist())))

    return write


def _model_body(model: ModelIndex) -> dict[str, Any]:
    return {
        "main": None if model.main is None else _segment_body(model.main),
        "delta": [_segment_body(segment) for segment in (*model.sealed, *model.delta)],
    }


def _segment_body(segment: Segment) -> dict[str, Any]:
    return {
        "name": segment.name,
        "search_params": None if segment.lists is None else asdict(segment.search_params),
        "dead": np.nonzero(~segment.alive)[0].tolist(),
    }


def _model(body: Mapping[str, Any], files: Mapping[str, mmap], spec: EmbedderSpec) -> ModelIndex:
    main = body["main"]
    return ModelIndex(
        main=None if main is None else _segment(main, files, spec),
        delta=tuple(_segment(segment, files, spec) for segment in body["delta"]),
    )


def _segment(body: Mapping[str, Any], files: Mapping[str, mmap], spec: EmbedderSpec) -> Segment:
    name, search_params = body["name"], body["search_params"]
    backing = {part: files[f"{name}.{part}"] for part in (FLAT, LISTS) if part == FLAT or search_params is not None}
    ids, counts = _MEMBERS.validate_json(files[f"{name}.{MEMBERS}"][:])
    alive = np.ones(len(ids), np.bool_)
    alive[body["dead"]] = False
    flat = _read(backing[FLAT])
    if flat.ntotal != sum(counts) or flat.d != spec.row_size or len(ids) != len(counts):
        raise SnapshotDamaged(f"segment {name} has {flat.ntotal} rows of {flat.d} numbers")
    segment = Segment(flat, Members(ids, np.array(counts, np.int32)), alive, name=name, backing=backing)
    if search_params is None:
        return segment
    return replace(segment, lists=_read(backing[LISTS]), search_params=SearchParams(**search_params))


def _read(mapped: mmap) -> Any:
    """The index in this memory, which must live as long as it."""
    data = np.frombuffer(mapped, np.uint8)
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(data), data.size))
