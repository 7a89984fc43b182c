"""Run the retrieval protocol on libraries of the bundled tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vlibrary.bundled.tasks import TASKS, encode_png, examples
from vlibrary.domain.matching.calibration import ACCEPTED, Calibration, normalise, weigh
from vlibrary.domain.query import PartScores, Query
from vlibrary.domain.vector import Array
from vlibrary.evaluation.retrieval.queries import (
    NONE,
    SEEDS,
    Case,
    Wordings,
    confusing_cases,
    library_cases,
    many_question_examples,
    unrelated_cases,
)
from vlibrary.evaluation.retrieval.report import KindShare, RetrievalReport
from vlibrary.models.embedder import Embedder
from vlibrary.training.calibration import calibrate, embed_background
from vlibrary.training.features import Features, embed_examples
from vlibrary.training.keys import choose_exemplars
from vlibrary.training.progress import Progress, Report, ignore

SIZES: Final = (400, 50, 12)
PER_TASK: Final = 60
BINS: Final = 10
_MANY_EACH: Final = 80
_TIMED: Final = 50


@dataclass(frozen=True, eq=False)
class Entry:
    """A vector of the library, by what its card has."""

    name: str
    keys: Features
    calibration: Calibration


def measure(
    embedder: Embedder,
    which: Wordings,
    *,
    sizes: Sequence[int] = SIZES,
    per_task: int = PER_TASK,
    report: Report = ignore,
) -> RetrievalReport:
    """Measure libraries of vectors with `sizes` examples each. per_task: queries per task and kind.

    Takes about two minutes on two cores with the defaults.
    """
    of_library = [*library_cases(which, per_task), *confusing_cases(which, per_task)]
    cases = [*of_library, *unrelated_cases(which, per_task)]
    related = np.arange(len(cases)) < len(of_library)
    images, texts = _embed(embedder, cases, report)
    background = embed_background(embedder)
    training = []
    for number, task in enumerate(TASKS):
        training.append(embed_examples(embedder, examples(task, "train", max(sizes), SEEDS[which])))
        report(Progress("train", number + 1, len(TASKS)))
    kinds: list[KindShare] = []
    calibrated: list[NDArray[np.float64]] = []
    libraries = {
        size: [enter(t.name, own, size, background) for t, own in zip(TASKS, training, strict=True)] for size in sizes
    }
    right = np.array([case.task for case in cases])
    for size, library in libraries.items():
        evidence = weigh_all(cases, images, texts, library)
        best, probability = decide_all(evidence, library)
        kinds += _shares(cases, best, probability, related, size)
        own = np.flatnonzero(right != NONE)
        without = evidence[own].copy()
        without[np.arange(len(own)), right[own]] = -np.inf
        kinds += _measure_removal([cases[at] for at in own], decide_all(without, library)[1], size)
        calibrated.append(np.stack([probability, best == right]))
    found, wrong = _measure_many(embedder, which, libraries[max(sizes)], background, (cases, images, texts))
    text_ms, image_ms = time_embedding(embedder, which)
    return RetrievalReport(
        wordings=which,
        kinds=tuple(kinds),
        many_found=found,
        many_wrong=wrong,
        calibration_error=calibration_error(*np.concatenate(calibrated, axis=1)),
        embed_text_ms=text_ms,
        embed_image_ms=image_ms,
    )


def enter(name: str, queries: Features, count: int, background: Features) -> Entry:
    """Return the library's entry of a vector trained on the first `count` of the queries."""
    used = Features(queries.images[:count], queries.texts[:count])
    exemplars = choose_exemplars(used)
    return Entry(name, exemplars, calibrate(exemplars, used, background))


def weigh_all(cases: Sequence[Case], images: Array, texts: Array, library: Sequence[Entry]) -> NDArray[np.float64]:
    """Return the evidence of each query for each vector, [N, vectors]. images, texts: the queries' embeddings."""
    columns = []
    for entry in library:
        closest = zip(cases, (images @ entry.keys.images.T).max(1), (texts @ entry.keys.texts.T).max(1), strict=True)
        columns.append(
            [
                weigh(
                    PartScores(
                        None if case.image is None else float(image), None if case.text is None else float(text)
                    ),
                    entry.calibration,
                )
                for case, image, text in closest
            ]
        )
    return np.array(columns).T


def decide_all(
    evidence: NDArray[np.float64], library: Sequence[Entry]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the number of the most probable vector for each query, and its probability."""
    names = [entry.name for entry in library]
    probabilities = np.array([normalise(row, names) for row in evidence.tolist()])
    best = probabilities.argmax(1)
    return best, probabilities[np.arange(len(best)), best]


def calibration_error(probability: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return the expected calibration error over BINS bins of equal width (Naeini et al., AAAI 2015)."""
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [abs(probability[bins == one].sum() - right[bins == one].sum()) for one in range(BINS)]
    return float(sum(gaps) / len(probability))


def time_embedding(embedder: Embedder, which: Wordings) -> tuple[float, float]:
    """Return the median time in milliseconds to embed a text, and a text with an image; each query is a new one."""
    rng = np.random.default_rng(SEEDS[which])
    pictures = [encode_png(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(_TIMED)]
    spent: tuple[list[float], list[float]] = ([], [])
    for number, picture in enumerate(pictures):
        for times, images in zip(spent, ((), (picture,)), strict=True):
            started = time.perf_counter()
            embedder.embed(Query(f"Which of the {number} objects is {len(images)}?", images))
            times.append(1000 * (time.perf_counter() - started))
    return median(spent[0]), median(spent[1])


def _embed(embedder: Embedder, cases: Sequence[Case], report: Report) -> tuple[Array, Array]:
    """Return the embeddings [N, image_size] and [N, text_size], zeros for a missing part."""
    images = np.zeros((len(cases), embedder.spec.image_size), np.float32)
    texts = np.zeros((len(cases), embedder.spec.text_size), np.float32)
    for start in range(0, len(cases), 64):
        batch = range(start, min(start + 64, len(cases)))
        shown, asked = [at for at in batch if cases[at].image], [at for at in batch if cases[at].text is not None]
        if shown:
            images[shown] = embedder.embed_images([cases[at].image or b"" for at in shown])
        if asked:
            texts[asked] = embedder.embed_texts([cases[at].text or "" for at in asked])
        report(Progress("queries", batch.stop, len(cases)))
    return images, texts


def _shares(
    cases: Sequence[Case], best: NDArray[np.int64], probability: NDArray[np.float64], related: NDArray[Any], size: int
) -> list[KindShare]:
    """Return, for each kind, the shares of queries with the right vector and with a wrong one."""
    applied, right = probability >= ACCEPTED, np.array([case.task for case in cases])
    kinds = np.array([case.kind for case in cases])
    found = []
    for kind in dict.fromkeys(kinds.tolist()):
        here = kinds == kind
        hit = (applied & (best == right))[here]
        found.append(
            KindShare(
                kind=kind,
                examples=size,
                queries=int(here.sum()),
                right=float(hit.mean()) if (right[here] != NONE).any() else float((~applied[here]).mean()),
                wrong=float((applied[here] & ~hit).mean()),
                of_library=bool(related[here][0]),
            )
        )
    return found


def _measure_removal(cases: Sequence[Case], probability: NDArray[np.float64], size: int) -> list[KindShare]:
    """Return the shares of queries that get some vector although their own is not in the library."""
    kinds = np.array([case.kind for case in cases])
    found = []
    for kind in dict.fromkeys(kinds.tolist()):
        applied = probability[kinds == kind] >= ACCEPTED
        share = float(applied.mean())
        found.append(KindShare(f"{kind}, task removed", size, len(applied), 1 - share, share, of_library=True))
    return found


def _measure_many(
    embedder: Embedder,
    which: Wordings,
    library: Sequence[Entry],
    background: Features,
    others: tuple[Sequence[Case], Array, Array],
) -> tuple[float, float]:
    """Return the share of its own queries that a vector with many questions gets, and of other tasks' queries.

    Its own compete with the library's vectors; the others are asked of the vector alone, which is harder.
    """
    trained = many_question_examples("train", _MANY_EACH, SEEDS[which])
    name = "many-questions"
    many = enter(name, embed_examples(embedder, trained), len(trained), background)
    asked = many_question_examples("test", _MANY_EACH // 4, SEEDS[which])
    own = embed_examples(embedder, asked)
    cases = [Case(name, len(library), one.question, one.image) for one in asked]
    together = [*library, many]
    best, probability = decide_all(weigh_all(cases, own.images, own.texts, together), together)
    found = float(((best == len(library)) & (probability >= ACCEPTED)).mean())
    queries, images, texts = others
    trained_wordings = [at for at, case in enumerate(queries) if case.kind == "trained"]
    alone = weigh_all(
        [queries[at] for at in trained_wordings], images[trained_wordings], texts[trained_wordings], [many]
    )
    return found, float((decide_all(alone, [many])[1] >= ACCEPTED).mean())
