"""Find the vectors that fit a query: this is where a query becomes vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import InvalidInput, SeqNotReached
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import Modality, Query
from vlibrary.library.library import Library
from vlibrary.library.reindex import catch_up

MAX_K = 100
# A vector whose card was never calibrated must be at least this near: in between what unrelated and related
# queries score for common CLIP embedders. Calibrated cards carry their own threshold.
DEFAULT_THRESHOLD = 0.8
TRIES = 3


@dataclass(frozen=True)
class Match:
    """A vector found. score, threshold: mean cosine in [-1, 1]; it is accepted when score >= threshold.

    record: its card comes without keys.
    """

    record: VectorRecord
    score: float
    threshold: float

    @property
    def accepted(self) -> bool:
        return self.score >= self.threshold


def retrieve(
    query: Query,
    library: Library,
    *,
    k: int,
    model_id: str | None,
    among: Filter | None = None,
    min_seq: int = 0,
) -> list[Match]:
    """The k best vectors for the query, best first, accepted or not.

    Everything registered before the call is found, and nothing deleted before it. among: only vectors that pass.
    min_seq: a place in the change log that the caller knows of. Raises InvalidInput for k out of range, ModelNotFound,
    InvalidImage, InvalidQuery, SeqNotReached, Unavailable.
    """
    if not 1 <= k <= MAX_K:
        raise InvalidInput(f"k is {k}.", f"Ask for 1 to {MAX_K} vectors.")
    model = library.worker.find(model_id).model.fingerprint
    embedding = library.worker.embed(query)
    matches: list[Match] = []
    for _ in range(TRIES):
        position = catch_up(library.catalogue, library.index)
        _check_seq(position.seq, min_seq)
        passing = None if among is None else library.catalogue.vectors.ids(among)
        hits = library.index.search(embedding, model=model, k=k, among=passing)
        matches = _matches(hits, query.modality, library.catalogue, among)
        now = library.index.position
        if len(matches) == len(hits) and now is not None and now.epoch == position.epoch:
            break
        # A hit was deleted or amended meanwhile, so that another vector is among the best; or another request has begun
        # to rebuild the index, which was not whole when it was searched.
    return matches


def _matches(hits: Sequence[Hit], modality: Modality, catalogue: Catalogue, among: Filter | None) -> list[Match]:
    """The hits that are still there and, asked again of the records themselves, still pass."""
    found = catalogue.vectors.get_many([hit.vector_id for hit in hits])
    scores = {hit.vector_id: hit.score for hit in hits}
    return [
        Match(record, scores[record.id], record.card.thresholds.get(modality, DEFAULT_THRESHOLD))
        for record in found
        if among is None or among.allows(record)
    ]


def _check_seq(seq: int, min_seq: int) -> None:
    """The log is read to its end before every search, so only a catalogue that lost its newest part can be behind."""
    if seq < min_seq:
        raise SeqNotReached(
            f"The catalogue is at change {seq}, and the request asks for {min_seq}.",
            "Leave min_seq out: it comes from another library, or from before this one was restored from a backup.",
        )
