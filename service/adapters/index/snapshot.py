"""The task index's state as a snapshot, and back, without copying: FAISS reads its rows where the file is mapped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from mmap import mmap
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import structlog
from pydantic import TypeAdapter

from vlibrary.adapters.index.faiss_index import FaissIndex, IndexState
from vlibrary.adapters.index.model_index import Shelf
from vlibrary.adapters.index.segment import FLAT, LISTS, Breadth, Members, Segment
from vlibrary.adapters.snapshots.port import Draft, SnapshotDamaged, Snapshots, SnapshotsUnavailable
from vlibrary.domain.ports import Position
from vlibrary.domain.query import EmbedderSpec

MEMBERS = "members"
_MEMBERS = TypeAdapter(tuple[list[str], list[int]])

log = structlog.get_logger(__name__)


def save(index: FaissIndex, snapshots: Snapshots) -> Position | None:
    """Keep the index as it is now, while it goes on; returns the position that was kept.

    Nothing is kept of an index without a position. Raises SnapshotsUnavailable.
    """
    state = index.state
    if state.position is None:
        return None
    pieces: dict[str, Callable[[Path], None]] = {}
    for shelf in state.shelves.values():
        for segment in shelf.segments:
            pieces |= _writers(segment)
    body = {"shelves": {model_id: _shelf_body(shelf) for model_id, shelf in state.shelves.items()}}
    snapshots.save(Draft(state.position, index.spec.fingerprint, body, pieces))
    return state.position


def load(index: FaissIndex, snapshots: Snapshots, epoch: str) -> Position | None:
    """Go on from the newest good snapshot of this epoch; returns its position, None when there is none.

    The index is left as it was then, and fills itself from the catalogue.
    """
    try:
        snapshot = snapshots.newest(epoch, index.spec.fingerprint)
        if snapshot is None:
            return None
        shelves = {
            model_id: _shelf(body, snapshot.pieces, index.spec) for model_id, body in snapshot.body["shelves"].items()
        }
    except SnapshotsUnavailable as reason:
        log.warning("snapshots.unavailable", reason=str(reason))
        return None
    except (SnapshotDamaged, LookupError, TypeError, ValueError, RuntimeError) as error:
        # Whole, so it was made like this: by another version of this service or of FAISS.
        log.warning("snapshots.ignored", reason=f"{type(error).__name__}: {error}")
        return None
    index.restore(IndexState(snapshot.position, shelves))
    return snapshot.position


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


def _shelf_body(shelf: Shelf) -> dict[str, Any]:
    return {
        "main": None if shelf.main is None else _segment_body(shelf.main),
        "delta": [_segment_body(segment) for segment in (*shelf.sealed, *shelf.delta)],
    }


def _segment_body(segment: Segment) -> dict[str, Any]:
    return {
        "name": segment.name,
        "breadth": None if segment.lists is None else asdict(segment.breadth),
        "dead": np.nonzero(~segment.alive)[0].tolist(),
    }


def _shelf(body: Mapping[str, Any], pieces: Mapping[str, mmap], spec: EmbedderSpec) -> Shelf:
    main = body["main"]
    return Shelf(
        main=None if main is None else _segment(main, pieces, spec),
        delta=tuple(_segment(segment, pieces, spec) for segment in body["delta"]),
    )


def _segment(body: Mapping[str, Any], pieces: Mapping[str, mmap], spec: EmbedderSpec) -> Segment:
    name, breadth = body["name"], body["breadth"]
    backing = {part: pieces[f"{name}.{part}"] for part in (FLAT, LISTS) if part == FLAT or breadth is not None}
    ids, counts = _MEMBERS.validate_json(pieces[f"{name}.{MEMBERS}"][:])
    alive = np.ones(len(ids), np.bool_)
    alive[body["dead"]] = False
    flat = _read(backing[FLAT])
    if flat.ntotal != sum(counts) or flat.d != spec.row_size or len(ids) != len(counts):
        raise SnapshotDamaged(f"segment {name} has {flat.ntotal} rows of {flat.d} numbers")
    segment = Segment(flat, Members(ids, np.array(counts, np.int32)), alive, name=name, backing=backing)
    return segment if breadth is None else replace(segment, lists=_read(backing[LISTS]), breadth=Breadth(**breadth))


def _read(mapped: mmap) -> Any:
    """The index in this memory, which must live as long as it."""
    data = np.frombuffer(mapped, np.uint8)
    return faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(data), data.size))
