"""Copying objects between stores, which can be interrupted and resumed."""

from __future__ import annotations

import hashlib

from tests.support.memory.artifacts import MemoryArtifacts
from vlibrary.domain.ports.backup import ObjectRef
from vlibrary.upkeep.backup import CopyProgress, copy_objects


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def filled(*names: str) -> tuple[MemoryArtifacts, list[ObjectRef]]:
    """Return a store with objects whose content is their name."""
    store = MemoryArtifacts()
    references = [ObjectRef(name, digest(name.encode()), len(name)) for name in names]
    for reference in references:
        store.put(reference.key, reference.key.encode(), reference.sha256)
    return store, references


def test_all_objects_are_copied() -> None:
    source, references = filled("a", "bb", "ccc")
    target = MemoryArtifacts()
    steps = list(copy_objects(references, source, target, total=3))
    assert [step.done for step in steps] == [0, 1, 2, 3]
    assert steps[-1] == CopyProgress(3, copied=3, size=6)
    assert [target.get(reference.key, reference.sha256) for reference in references] == [b"a", b"bb", b"ccc"]


def test_existing_objects_are_not_copied_again() -> None:
    source, references = filled("a", "b", "c")
    target = MemoryArtifacts()
    steps = copy_objects(references, source, target, total=3)
    for _ in range(3):
        next(steps)
    steps.close()
    source.delete("a")  # so it cannot be copied a second time
    *_, done = copy_objects(references, source, target, total=3)
    assert (done.done, done.lost) == (3, ())
    assert done.there >= 2  # the third may have been under way


def test_a_corrupt_copy_is_replaced() -> None:
    source, references = filled("a")
    target = MemoryArtifacts()
    target.put("a", b"x", digest(b"x"))
    *_, done = copy_objects(references, source, target, total=1)
    assert done.copied == 1
    assert target.get("a", references[0].sha256) == b"a"


def test_a_lost_object_is_reported_and_the_others_are_copied() -> None:
    source, references = filled("a", "b", "c", "d")
    source.delete("a")
    source.delete("c")
    source.put("c", b"damaged", digest(b"damaged"))
    target = MemoryArtifacts()
    target.put("c", b"something", digest(b"something"))
    *_, done = copy_objects(references, source, target, total=4)
    assert (done.lost, done.copied, done.done) == (("a", "c"), 2, 4)
    assert target.get("c", digest(b"something")) == b"something"  # no worse than before
