"""Take vectors out of one library and into another, with their ids, so that lineage stays true."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from vlibrary.domain.card import KeyKind, Status, VectorCard, VectorRecord
from vlibrary.domain.errors import InvalidArchive, VectorExists, VectorNotFound, VLibraryError
from vlibrary.domain.filters import Filter
from vlibrary.domain.labels import same_metadata
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.registration import ANONYMOUS, Amendment
from vlibrary.formats.archive import Archive, Entry, Item, pack
from vlibrary.formats.card import dump_card, parse_card
from vlibrary.library.amend import amend
from vlibrary.library.library import Library
from vlibrary.library.paging import pages
from vlibrary.library.publish import Submission, publish

# No HTTP header can carry this sign, so no client's idempotency key is one of these.
_IMPORT = "\N{RIGHTWARDS ARROW}import:"


class Outcome(StrEnum):
    """What became of a vector, of which the library may have had this very one already, perhaps deleted.

    PRESENT: it had, with the same description, tags and metadata. DIFFERS: with others; it stays as it is. UPDATED: it
    had others, and now has the archive's.
    """

    IMPORTED = "imported"
    PRESENT = "present"
    DIFFERS = "differs"
    UPDATED = "updated"
    REFUSED = "refused"


@dataclass(frozen=True)
class Loaded:
    """What became of one vector of an archive.

    record: in this library. seq: a place in the change log by which this was so. error: why it was refused.
    """

    entry: Entry
    outcome: Outcome
    record: VectorRecord | None = None
    seq: int = 0
    error: VLibraryError | None = None


def export(which: Filter, library: Library) -> Iterator[bytes]:
    """The archive of all vectors that pass, in pieces; each vector is read when its turn comes.

    Raises ArtifactLost and Unavailable, at any piece: an archive that
    ends so has no manifest, and no library loads it.
    """
    return pack(_item(record, library.artifacts) for page in pages(library.catalogue, which) for record in page.records)


@dataclass(frozen=True)
class Loader:
    """Loads archives into a library.

    artifact_bytes, card_bytes: what a vector of an archive may have at most. update: give vectors that the library has
    already the archive's description, tags and metadata.
    """

    library: Library
    artifact_bytes: int
    card_bytes: int
    update: bool = False

    def load(self, archive: Archive, *, actor: str = ANONYMOUS) -> Iterator[Loaded]:
        """Import the archive's vectors, oldest version first. Loading it again changes nothing.

        What is wrong with one vector is in its Loaded and does not keep the others out; nothing is raised.
        """
        for entry in archive.entries:
            try:
                yield self._load(archive, entry, actor)
            except VLibraryError as error:
                yield Loaded(entry, Outcome.REFUSED, error=error)

    def _load(self, archive: Archive, entry: Entry, actor: str) -> Loaded:
        item = archive.item(entry, artifact_bytes=self.artifact_bytes, card_bytes=self.card_bytes)
        card = _card(item)
        known = self._known(entry)
        if known is not None:
            return self._merge(entry, known, card, actor)
        submission = Submission(item.artifact, card, _IMPORT + entry.id, actor, entry.id)
        record = publish(submission, self.library)
        return Loaded(entry, Outcome.IMPORTED, record, record.seq)

    def _merge(self, entry: Entry, known: VectorRecord, card: VectorCard, actor: str) -> Loaded:
        """Leave the vector that is here as it is, or amend it. What nobody may amend is not compared."""
        changes = _changes(known.card, card)
        if changes == Amendment():
            return Loaded(entry, Outcome.PRESENT, known, known.seq)
        if not self.update or known.status is not Status.ACTIVE:
            return Loaded(entry, Outcome.DIFFERS, known, known.seq)
        record, seq = amend(known, changes, self.library, expected_revision=known.revision, actor=actor)
        return Loaded(entry, Outcome.UPDATED, record, seq)

    def _known(self, entry: Entry) -> VectorRecord | None:
        """The vector of the entry's id, if there is one. Raises VectorExists when it is not the same vector."""
        try:
            record = self.library.catalogue.vectors.get(entry.id, deleted=True)
        except VectorNotFound:
            return None
        if (record.sha256, record.name) != (entry.sha256, entry.name):
            raise VectorExists(
                f"The id {entry.id} belongs to another vector here, {record.name} version {record.version}.",
                "One of the two was altered: find out which, and register the other one anew from its file.",
            )
        return record


def _changes(here: VectorCard, there: VectorCard) -> Amendment:
    """What makes the one say what the other says."""
    return Amendment(
        description=None if here.description == there.description else there.description,
        tags=None if here.tags == there.tags else there.tags,
        metadata=None if same_metadata(here.metadata, there.metadata) else there.metadata,
    )


def _card(item: Item) -> VectorCard:
    card = parse_card(item.card)
    if card.name != item.entry.name:
        raise InvalidArchive(
            f"The card's name is {card.name!r}, and the manifest says {item.entry.name!r}.", "Export it again."
        )
    return card


def _item(record: VectorRecord, artifacts: Artifacts) -> Item:
    artifact = artifacts.get(record.object_key, record.sha256)
    card = dump_card(_portable(record.card)).encode()
    return Item.of(record.id, record.name, record.version, artifact, card)


def _portable(card: VectorCard) -> VectorCard:
    """Without the description's key, which every library makes with its own embedder."""
    keys = tuple(key for key in card.keys if key.kind is not KeyKind.DESCRIPTION)
    return replace(card, keys=keys, embedder=card.embedder if keys else None)
