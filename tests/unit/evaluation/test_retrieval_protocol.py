"""The retrieval protocol: its data, its figures, and a whole run with a simple embedder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from tests.support.registrations import draft, upload
from vlibrary.bundled.tasks import TASKS
from vlibrary.domain.matching.calibration import ACCEPTED, PartScale
from vlibrary.domain.matching.decision import Candidate, decide, judge
from vlibrary.domain.query import EmbedderSpec, Modality, Query, TaskEmbedding, unit
from vlibrary.domain.vector import Array
from vlibrary.evaluation.retrieval import measure as protocol
from vlibrary.evaluation.retrieval.queries import (
    NONE,
    SEEDS,
    Case,
    Wordings,
    confusing_cases,
    library_cases,
    unrelated_cases,
)
from vlibrary.evaluation.retrieval.report import KindShare, RetrievalReport
from vlibrary.formats.images import decode_image
from vlibrary.models.embedder import Embedder
from vlibrary.training.features import Features

SETS: tuple[Wordings, ...] = ("development", "first_final", "final")
WORDINGS = json.loads(Path(protocol.__file__).with_name("wordings.json").read_text(encoding="utf-8"))
KEYS = [
    *("trained_400", "trained_50", "trained_12", "paraphrase", "wrong_any", "removed", "offlibrary_loss_points"),
    *("many_question_wrong", "many_question_found", "ece", "embed_text_ms", "embed_image_ms"),
]
# Words without content: they say nothing about the subject of a question.
FUNCTION_WORDS = {"which", "the", "what", "is", "it", "of", "and", "a", "this", "that", "these", "those", "do", "does"}


class WordCounts:
    """An embedder for tests: a text is the set of its words, an image the size of its file and its mean colour."""

    spec = EmbedderSpec("words", "f" * 64, image_size=5, text_size=64)

    def embed_texts(self, texts: Sequence[str]) -> Array:
        rows = np.full((len(texts), 64), 1e-3, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in set(re.findall(r"\w+", text.lower())) - FUNCTION_WORDS - {"name"}:
                row[sum(map(ord, word)) % 64] += 1
        return np.stack([unit(row) for row in rows])

    def embed_images(self, images: Sequence[bytes]) -> Array:
        rows = []
        for image in images:
            mean = np.asarray(decode_image(image), np.float32).mean((0, 1)) / 255
            rows.append(unit(np.array([*mean, len(image) / 3000, 1], np.float32)))
        return np.stack(rows)

    def truncates(self, text: str) -> bool:
        return False

    def embed(self, query: Query) -> TaskEmbedding:
        return TaskEmbedding(text=self.embed_texts([query.text or ""])[0])


@pytest.mark.parametrize("which", SETS)
def test_every_task_has_ten_paraphrases_with_one_content_word_of_training_at_most(which: Wordings) -> None:
    said = WORDINGS[which]["paraphrases"]
    assert set(said) == {task.name for task in TASKS}
    for task in TASKS:
        trained = {word for text in task.wordings for word in re.findall(r"\w+", text.lower())} - FUNCTION_WORDS
        assert len(set(said[task.name])) == 10
        for text in said[task.name]:
            assert text not in task.wordings
            assert len(trained & set(re.findall(r"\w+", text.lower()))) <= 1, text


def test_the_final_wordings_and_images_are_not_those_of_development() -> None:
    for group in ("everyday", "languages", "empty"):
        known = {*WORDINGS["development"][group], *WORDINGS["first_final"][group]}
        assert not known & set(WORDINGS["final"][group])
    texts = [{text for own in WORDINGS[which]["paraphrases"].values() for text in own} for which in SETS]
    assert not (texts[0] | texts[1]) & texts[2]
    assert len(set(SEEDS.values())) == len(SETS)


def test_queries_that_no_vector_is_right_for_say_so() -> None:
    cases = [*library_cases("development", 5), *confusing_cases("development", 5), *unrelated_cases("development", 5)]
    right = {case.kind for case in cases if case.task != NONE}
    assert right == {"trained", "trained, text only", "paraphrase", "paraphrase, text only"}
    assert all(case.text is not None or case.image is not None for case in cases)


def test_a_run_has_all_figures(tmp_path: Path) -> None:
    report = protocol.measure(cast("Embedder", WordCounts()), "development", sizes=(12,), per_task=2)
    found = report.as_json()
    assert list(found)[: len(KEYS)] == KEYS
    assert (found["trained_400"], found["trained_50"]) == (None, None)
    assert found["trained_12"] > 0.5
    assert found["many_question_found"] > 0.5
    assert 0 <= found["ece"] <= 1
    assert {one["kind"] for one in found["kinds"]} >= {"paraphrase", "picture only", "trained, task removed"}
    assert report.as_table().row_count == len(report.kinds)
    report.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def _share(
    kind: str, right: float, wrong: float, *, of_library: bool, examples: int = 12, queries: int = 10
) -> KindShare:
    return KindShare(kind, examples, queries, right, wrong, of_library)


@pytest.mark.parametrize("seed", range(5))
def test_the_protocol_decides_as_auto_does(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = EmbedderSpec("four", "f" * 64, image_size=4, text_size=4)
    draw = [np.stack([unit(row) for row in rng.normal(size=(6, 4))]) for _ in range(8)]
    scales = {Modality.IMAGE: PartScale(0.9, 0.1), Modality.TEXT: PartScale(0.95, 0.2)}
    library = [
        protocol.Entry(f"v{number}", Features(draw[2 * number], draw[2 * number + 1]), scales) for number in range(4)
    ]
    for image, text in (
        (draw[0][0], draw[1][0]),
        (draw[2][1], draw[3][2]),
        (draw[0][0], draw[3][0]),
        (None, draw[5][0]),
    ):
        query = TaskEmbedding(image, text)
        candidates = []
        for entry in library:
            rows = np.concatenate([entry.keys.images, entry.keys.texts], axis=1)
            best = float((rows @ query.row(spec)).max()) / query.parts
            candidates.append(Candidate(draft(upload(), entry.name, calibration=scales), best, rows))
        decision = decide(judge(query, sorted(candidates, key=lambda one: -one.score), spec))
        case = Case("any", NONE, "text", None if image is None else b"image")
        row = np.zeros(4, np.float32) if image is None else image
        best_entry, probability = protocol.decide_all(
            protocol.weigh_all([case], row[None], text[None], library), library
        )
        applied = library[best_entry[0]].name if probability[0] >= ACCEPTED else None
        assert (decision.best.record.name if decision.best and decision.reason is None else None) == applied


def test_headline_figures_are_the_worst_of_their_kinds() -> None:
    kinds = (
        _share("trained", 1.0, 0.0, of_library=True),
        _share("paraphrase", 0.9, 0.02, of_library=True),
        _share("paraphrase", 0.8, 0.01, of_library=True, examples=50),
        _share("trained, task removed", 0.7, 0.3, of_library=True),
        _share("noise only", 1.0, 0.0, of_library=False, queries=30),
        _share("everyday, text only", 0.9, 0.1, of_library=False),
    )
    summary = RetrievalReport("final", kinds, 1.0, 0.0, 0.01, 1.0, 2.0).summary()
    assert (summary["paraphrase"], summary["wrong_any"], summary["removed"]) == (0.8, 0.02, 0.3)
    assert summary["offlibrary_loss_points"] == pytest.approx(2.5)


def test_the_calibration_error_of_honest_probabilities_is_small() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(20_000)
    right = (rng.random(20_000) < probability).astype(float)
    assert protocol.calibration_error(probability, right) < 0.02
    assert protocol.calibration_error(np.full(100, 0.95), np.zeros(100)) == pytest.approx(0.95)
