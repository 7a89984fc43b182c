"""Find the vectors that match a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import InvalidInput, SeqNotReached
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import Modality, Query, TaskEmbedding
from vlibrary.library.library import Library
from vlibrary.library.reindex import catch_up

MAX_K = 100
# For cards without a calibrated threshold: between the scores of unrelated and of related queries with common CLIP
# embedders.
DEFAULT_THRESHOLD = 0.8
MAX_TRIES = 3


@dataclass(frozen=True)
class Match:
    """A vector found for a query. score, threshold: mean cosine in [-1, 1]; accepted if score >= threshold.

    record: its card has no keys.
    """

    record: VectorRecord
    score: float
    threshold: float

    @property
    def accepted(self) -> bool:
        return self.score >= self.threshold


@dataclass(frozen=True)
class Retrieval:
    """The vectors found for a query, best first, and the embedding that was compared with their keys."""

    matches: list[Match]
    query: TaskEmbedding


def retrieve(
    query: Query,
    library: Library,
    *,
    k: int,
    model_id: str | None,
    among: Filter | None = None,
    min_seq: int = 0,
) -> Retrieval:
    """Return the k best vectors for the query, accepted or not.

    The search reflects every change before the call. among: only vectors that pass this filter. min_seq: a sequence
    number of the change log that must be reached. Raises InvalidInput for k out of range, ModelNotFound, InvalidImage,
    InvalidQuery, SeqNotReached, Unavailable.
    """
    if not 1 <= k <= MAX_K:
        raise InvalidInput(f"Invalid k {k}.", f"Use 1 to {MAX_K}.")
    model = library.worker.find(model_id).model.fingerprint
    embedding = library.worker.embed(query)
    matches: list[Match] = []
    for _ in range(MAX_TRIES):
        position = catch_up(library.catalogue.change_log, library.index)
        _check_seq(position.seq, min_seq)
        passing = None if among is None else library.catalogue.vectors.ids(among)
        hits = library.index.search(embedding, model=model, k=k, among=passing)
        matches = _matches(hits, query.modality, library.catalogue, among)
        now = library.index.position
        if len(matches) == len(hits) and now is not None and now.epoch == position.epoch:
            break
        # A hit was deleted or amended during the search, so that another vector may be among the best; or another
        # request reset the index, which was incomplete when it was searched.
    return Retrieval(matches, embedding)


def _matches(hits: Sequence[Hit], modality: Modality, catalogue: Catalogue, among: Filter | None) -> list[Match]:
    """Return the hits that are still active and still pass the filter."""
    found = catalogue.vectors.get_many([hit.vector_id for hit in hits])
    scores = {hit.vector_id: hit.score for hit in hits}
    return [
        Match(record, scores[record.id], record.card.thresholds.get(modality, DEFAULT_THRESHOLD))
        for record in found
        if among is None or among.allows(record)
    ]


def _check_seq(seq: int, min_seq: int) -> None:
    """Raise SeqNotReached if the log, which was just read to its end, is behind the request."""
    if seq < min_seq:
        raise SeqNotReached(
            f"The catalogue is at sequence number {seq}; the request requires {min_seq}.",
            "Omit min_seq: it comes from another library, or from before a restore.",
        )
