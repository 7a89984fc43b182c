"""Find the vectors that fit a query: this is where a query becomes vectors."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain.card import VectorRecord
from service.domain.errors import InvalidInput
from service.domain.ports import Catalogue, Inference, TaskIndex
from service.domain.query import Query
from service.library.reindex import catch_up

MAX_K = 100
# A vector whose card was never calibrated must be at least this near: in between what unrelated and related
# queries score for common CLIP embedders. Calibrated cards carry their own threshold.
DEFAULT_THRESHOLD = 0.8


@dataclass(frozen=True)
class Match:
    """A vector found. score, threshold: mean cosine in [-1, 1]; it is accepted when score >= threshold."""

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
) -> list[Match]:
    """The k best vectors for the query, best first, accepted or not.

    Everything registered before the call is found, and nothing deleted before it. Raises InvalidInput for k out of
    range, ModelNotFound, InvalidImage, InvalidQuery, Unavailable.
    """
    if not 1 <= k <= MAX_K:
        raise InvalidInput(f"k is {k}.", f"Ask for 1 to {MAX_K} vectors.")
    model = worker.find(model_id).model.model_id
    embedding = worker.embed(query)
    catch_up(catalogue, index)
    hits = index.search(embedding, model_id=model, k=k)
    records = {record.id: record for record in catalogue.get_many([hit.vector_id for hit in hits])}
    return [
        Match(
            record=records[hit.vector_id],
            score=hit.score,
            threshold=records[hit.vector_id].card.thresholds.get(query.modality, DEFAULT_THRESHOLD),
        )
        for hit in hits
        if hit.vector_id in records
    ]
