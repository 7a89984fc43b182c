"""Converts the state of a task index to a snapshot and back. FAISS reads rows from the mapped file without a copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
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
_MEMBERS = TypeAdapter(tuple[list[str], list[int], list[int]])

Writer = Callable[[Path], None]


def to_draft(state: IndexState, position: LogPosition, spec: EmbedderSpec) -> SnapshotDraft:
    """Return the state as a snapshot to be saved."""
    files: dict[str, Writer] = {}
    for model in state.models.values():
        for segment in model.segments:
            files |= _writers(segment)
    models = {
        fingerprint: {
            "main": None if model.main is None else _segment_body(model.main),
            "delta": [_segment_body(segment) for segment in (*model.sealed, *model.delta)],
        }
        for fingerprint, model in state.models.items()
    }
    return SnapshotDraft(position, spec.fingerprint, {"models": models}, files)


def from_snapshot(snapshot: Snapshot, spec: EmbedderSpec) -> IndexState:
    """Return the saved state. Raises SnapshotDamaged if another release of this service or of FAISS wrote it."""
    try:
        models = {
            fingerprint: ModelIndex(
                main=None if body["main"] is None else _read_segment(body["main"], snapshot.files, spec),
                delta=tuple(_read_segment(segment, snapshot.files, spec) for segment in body["delta"]),
            )
            for fingerprint, body in snapshot.body["models"].items()
        }
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise SnapshotDamaged(f"{type(error).__name__}: {error}") from error
    return IndexState(snapshot.position, models)


def _writers(segment: Segment) -> dict[str, Writer]:
    """Return a writer for each file of the segment, by file name."""
    writers: dict[str, Writer] = {
        MEMBERS: partial(_write_members, segment.members),
        FLAT: partial(_write_index, segment.flat),
    }
    if segment.lists is not None:
        writers[LISTS] = partial(_write_index, segment.lists)
    return {_file_name(segment.name, part): write for part, write in writers.items()}


def _file_name(segment: str, part: str) -> str:
    return f"{segment}.{part}"


def _write_members(members: Members, path: Path) -> None:
    path.write_bytes(_MEMBERS.dump_json((list(members.ids), members.counts.tolist(), members.registered.tolist())))


def _write_index(index: Any, path: Path) -> None:
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:  # what FAISS raises when the disk is full
        raise OSError("FAISS cannot write its index") from error


def _segment_body(segment: Segment) -> dict[str, Any]:
    return {
        "name": segment.name,
        "params": None if segment.lists is None else asdict(segment.params),
        "dead": np.nonzero(~segment.alive)[0].tolist(),
    }


def _read_segment(body: Mapping[str, Any], files: Mapping[str, mmap], spec: EmbedderSpec) -> Segment:
    name, params = body["name"], body["params"]
    backing = {part: files[_file_name(name, part)] for part in ([FLAT] if params is None else [FLAT, LISTS])}
    ids, counts, registered = _MEMBERS.validate_json(files[_file_name(name, MEMBERS)][:])
    alive = np.ones(len(ids), np.bool_)
    alive[body["dead"]] = False
    flat = _read_index(backing[FLAT])
    if flat.ntotal != sum(counts) or flat.d != spec.row_size or not len(ids) == len(counts) == len(registered):
        raise SnapshotDamaged(f"segment {name} has {flat.ntotal} rows of {flat.d} numbers")
    members = Members(ids, np.array(counts, np.int32), np.array(registered, np.int64))
    segment = Segment(flat, members, alive, name=name, backing=backing)
    if params is None:
        return segment
    return replace(segment, lists=_read_index(backing[LISTS]), params=SearchParams(**params))


def _read_index(mapped: mmap) -> Any:
    """Return the index in the mapped file, which must outlive it."""
    data = np.frombuffer(mapped, np.uint8)
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(data), data.size))
