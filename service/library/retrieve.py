"""Find the vectors that fit a query: this is where a query becomes vectors."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain.card import VectorRecord
from service.domain.errors import InvalidInput, SeqNotReached
from service.domain.ports import Catalogue, Filter, Inference, TaskIndex
from service.domain.query import Query
from service.library.reindex import catch_up

MAX_K = 100
# A vector whose card was never calibrated must be at least this near: in between what unrelated and related
# queries score for common CLIP embedders. Calibrated cards carry their own threshold.
DEFAULT_THRESHOLD = 0.8


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
    *,
    k: int,
    model_id: str | None,
    catalogue: Catalogue,
    index: TaskIndex,
    worker: Inference,
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
    model = worker.find(model_id).model.model_id
    embedding = worker.embed(query)
    _check_seq(catch_up(catalogue, index), min_seq)
    passing = None if among is None else catalogue.ids(among)
    hits = index.search(embedding, model_id=model, k=k, among=passing)
    found = catalogue.get_many([hit.vector_id for hit in hits])
    # Asked again of the records themselves: they may have been amended since.
    records = {record.id: record for record in found if among is None or among.allows(record)}
    return [
        Match(
            record=records[hit.vector_id],
            score=hit.score,
            threshold=records[hit.vector_id].card.thresholds.get(query.modality, DEFAULT_THRESHOLD),
        )
        for hit in hits
        if hit.vector_id in records
    ]


def _check_seq(seq: int, min_seq: int) -> None:
    """The log is read to its end before every search, so only a catalogue that lost its newest part can be behind."""
    if seq < min_seq:
        raise SeqNotReached(
            f"The catalogue is at change {seq}, and the request asks for {min_seq}.",
            "Leave min_seq out: it comes from another library, or from before this one was restored from a backup.",
        )
