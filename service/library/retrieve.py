"""Find the vectors that match a query."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from vlibrary.domain.errors import InvalidInput, SeqNotReached
from vlibrary.domain.filters import EVERYTHING_ACTIVE, Filter
from vlibrary.domain.matching.decision import Candidate, Decision, Match, decide, judge
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.steering import NotSteered, SteeringReason
from vlibrary.domain.wire import WorkerInfo
from vlibrary.library.library import Library
from vlibrary.library.reindex import catch_up

MAX_K = 100
# Vectors that are judged for each query. A farther one is not applied, even if its own threshold is as low.
CONSIDERED = 32
# More are judged if the nearest are versions of so few names.
LEAST_NAMES = 8
MAX_CONSIDERED = 512
MAX_TRIES = 3


@dataclass(frozen=True)
class Retrieval:
    """The vectors found for a query, best first, what `auto` does with them, and the embedding that was compared.

    matches: at most k; `auto` decides among more.
    """

    matches: list[Match]
    decision: Decision
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
    """Return the k best vectors for the query, accepted or not, and what `auto` does with the query.

    The search reflects every change before the call. among: only vectors that pass this filter. min_seq: a sequence
    number of the change log that must be reached. Raises InvalidInput for k out of range, ModelNotFound, InvalidImage,
    InvalidQuery, SeqNotReached, Unavailable.
    """
    if not 1 <= k <= MAX_K:
        raise InvalidInput(f"Invalid k {k}.", f"Use 1 to {MAX_K}.")
    info = library.worker.find(model_id)
    embedding = library.worker.embed(query)
    found: list[Candidate] = []
    for _ in range(MAX_TRIES):
        position = catch_up(library.catalogue.change_log, library.index)
        _check_seq(position.seq, min_seq)
        passing = None if among is None else library.catalogue.vectors.ids(among)
        search = partial(library.index.search, embedding, model=info.model.fingerprint, among=passing)
        found, complete = _find(search, max(k, CONSIDERED), library.catalogue, among)
        now = library.index.position
        if complete and now is not None and now.epoch == position.epoch:
            break
        # A hit was deleted or amended during the search, so that another vector may be among the best; or another
        # request reset the index, which was incomplete when it was searched.
    matches = judge(embedding, found, info.embedder)
    decision = decide(matches)
    if not matches and (reason := _other_embedder(info, library.catalogue, among)) is not None:
        decision = replace(decision, reason=reason)
    return Retrieval(matches[:k], decision, embedding)


def _other_embedder(info: WorkerInfo, catalogue: Catalogue, among: Filter | None) -> NotSteered | None:
    """Return the reason if there are vectors for this model whose keys are of another embedder; otherwise None."""
    which = replace(among or EVERYTHING_ACTIVE, fingerprint=info.model.fingerprint)
    for record in catalogue.vectors.page(which, limit=1).records:
        if record.card.embedder != info.embedder.fingerprint:
            detail = (
                f"The task keys of {record.name} version {record.version} are from another embedder than "
                f"{info.embedder.embedder_id}, so no query finds it. `vlibrary reindex` recomputes them."
            )
            return NotSteered(SteeringReason.OTHER_EMBEDDER, detail)
    return None


def _find(
    search: Callable[..., list[Hit]], count: int, catalogue: Catalogue, among: Filter | None
) -> tuple[list[Candidate], bool]:
    """Return the nearest vectors, more than `count` if these are of few names, and whether all hits still exist.

    A name with many versions, which often have equal keys, would otherwise hide every other vector.
    """
    while True:
        hits = search(k=count)
        found = _candidates(hits, catalogue, among)
        names = {one.record.name for one in found}
        if len(hits) < count or len(names) >= LEAST_NAMES or count >= MAX_CONSIDERED:
            return found, len(found) == len(hits)
        count *= 4


def _candidates(hits: Sequence[Hit], catalogue: Catalogue, among: Filter | None) -> list[Candidate]:
    """Return the hits that are still active and still pass the filter."""
    found = catalogue.vectors.get_many([hit.vector_id for hit in hits])
    by_id = {hit.vector_id: hit for hit in hits}
    return [
        Candidate(record, by_id[record.id].score, by_id[record.id].keys)
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
