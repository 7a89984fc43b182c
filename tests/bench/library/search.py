"""Latency and recall of retrieval, compared with FAISS alone and with other stores."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import faiss
import numpy as np

from tests.bench.library.keys import BUCKETS, SPEC
from tests.bench.library.rivals import RIVALS, Absent, Ask
from tests.bench.library.subject import Prepared, Subject
from tests.bench.spread import all_in_turn, seconds
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MODEL
from vlibrary.adapters.clock import SystemClock
from vlibrary.domain.filters import Filter
from vlibrary.domain.query import Query
from vlibrary.library.library import Library
from vlibrary.library.retrieve import retrieve

K = 10
SHARES = (0.5, 0.1, 0.01, 0.001)
BUCKET = 7
WARM_UP = 20

Figures = Mapping[str, float | list[float] | str]


def latency(subject: Subject) -> Figures:
    """Time the retrieval part of /retrieve against FAISS alone, which searches for the same ten nearest keys."""
    worker = Prepared()
    library = Library(subject.catalogue, MemoryArtifacts(), subject.index, worker, SystemClock())
    bare = _bare_faiss(subject)
    times = []
    for number, query in enumerate(subject.queries):
        worker.next = query
        ours = partial(retrieve, Query(text="?"), library=library, k=K, model_id=None)
        search = partial(subject.index.search, query, model=MODEL.fingerprint, k=K)
        times.append(all_in_turn([ours, search, partial(bare, query.row(SPEC))], first=number))
    whole, searched, alone = zip(*times, strict=True)
    p50 = _ms(whole, 0.5)
    return {
        "p50_ms": p50,
        "p99_ms": _ms(whole, 0.99),
        "over_faiss_ms": p50 - _ms(alone, 0.5),
        "index_p50_ms": _ms(searched, 0.5),
        "index_p99_ms": _ms(searched, 0.99),
        "faiss_p50_ms": _ms(alone, 0.5),
    }


def recall(subject: Subject) -> Figures:
    """Measure recall@10 against exact search, and the lowest value under filters."""
    rng = np.random.default_rng(2)
    plain = _recall(subject, [None] * len(subject.queries))
    filtered = [_recall(subject, [_some(subject, share, rng) for _ in subject.queries]) for share in SHARES]
    return {"recall": plain, "recall_filtered": min(filtered), "recall_by_share": filtered}


def against(subject: Subject, name: str, scratch: Path) -> Figures:
    """Measure [plain, under a filter that keeps 1 %]: the other store's p50 ÷ ours, measured in turn."""
    try:
        with RIVALS[name](subject.rows, subject.buckets, BUCKET, scratch) as rival:
            ratios, figures = [], []
            for ours, theirs in ((_plain(subject), rival.plain), (_filtered(subject), rival.filtered)):
                mine, other = [], []
                for query in subject.queries:
                    mine.append(seconds(partial(ours, query)))
                    other.append(seconds(partial(theirs, query.row(SPEC))))
                ratios.append(_ms(other, 0.5) / _ms(mine, 0.5))
                figures += [_ms(mine, 0.5), _ms(other, 0.5)]
            return {f"vs_{name}": ratios, f"vs_{name}_ms": figures}
    except Absent as reason:
        return {f"vs_{name}": f"skipped: {reason}"}


def _plain(subject: Subject) -> Callable[..., object]:
    return lambda query: subject.index.search(query, model=MODEL.fingerprint, k=K)


def _filtered(subject: Subject) -> Callable[..., object]:
    """Search as the service does: the ids that pass the filter come from the catalogue each time."""
    which = Filter(tags=(f"bucket-{BUCKET % BUCKETS}",))
    return lambda query: subject.index.search(
        query, model=MODEL.fingerprint, k=K, among=subject.catalogue.vectors.ids(which)
    )


def _bare_faiss(subject: Subject) -> Ask:
    main = subject.main
    if main.lists is None:
        return lambda row: main.flat.search(row[None], K)
    refined = faiss.IndexRefine(main.lists, main.flat)
    params = faiss.IndexRefineSearchParameters(
        k_factor=main.params.k_factor,
        base_index_params=faiss.IVFSearchParameters(nprobe=main.params.nprobe),
    )
    return lambda row: refined.search(row[None], K, params=params)


def _recall(subject: Subject, filters: Sequence[frozenset[str] | None]) -> float:
    recalls = []
    for query, among in zip(subject.queries, filters, strict=True):
        right = subject.exact.search(query, model=MODEL.fingerprint, k=K, among=among)
        found = subject.index.search(query, model=MODEL.fingerprint, k=K, among=among)
        recalls.append(len({hit.vector_id for hit in right} & {hit.vector_id for hit in found}) / len(right))
    return statistics.fmean(recalls)


def _some(subject: Subject, share: float, rng: np.random.Generator) -> frozenset[str]:
    """Return a random filter that keeps this share of the vectors."""
    size = max(1, round(share * len(subject.vectors)))
    return frozenset(subject.vectors[number] for number in rng.choice(len(subject.vectors), size, replace=False))


def _ms(times: Sequence[float], share: float) -> float:
    return 1e3 * float(np.quantile(times[WARM_UP:], share))
