"""The query embedder: unit vectors that do not depend on the rest of the batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.model import tiny
from tests.model.samples import noise_image
from vlibrary.bundled import EMBEDDER_FOLDER
from vlibrary.domain.errors import InvalidImage, UnsupportedModel
from vlibrary.domain.example import Example
from vlibrary.domain.query import Query, unit
from vlibrary.models.embedder import Embedder
from vlibrary.training.features import embed_examples

BUNDLED = pytest.param(
    "bundled",
    marks=pytest.mark.skipif(
        not (EMBEDDER_FOLDER / "config.json").exists(), reason="the bundled weights have not been built"
    ),
)


@pytest.fixture(scope="module", params=[*tiny.EMBEDDERS, BUNDLED])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "bundled":
        return EMBEDDER_FOLDER
    return tiny.save_embedder(*tiny.EMBEDDERS[request.param](), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def embedder(folder: Path) -> Embedder:
    return Embedder.load(folder)


def test_embeddings_are_unit_vectors_of_the_size_in_the_spec(embedder: Embedder) -> None:
    images = embedder.embed_images([noise_image(1), noise_image(2), noise_image(1)])
    texts = embedder.embed_texts(["a red circle", "how many?"])
    assert (images.shape, texts.shape) == ((3, embedder.spec.image_size), (2, embedder.spec.text_size))
    assert images.dtype == texts.dtype == np.float32
    norms = np.concatenate([np.linalg.norm(rows, axis=1) for rows in (images, texts)])
    assert norms == pytest.approx(np.ones(5), abs=1e-6)
    assert np.abs(images[0] - images[2]).max() <= 1e-6
    assert images[0] @ images[1] < 1 - 1e-4
    assert texts[0] @ texts[1] < 1 - 1e-4


def test_an_embedding_does_not_depend_on_the_batch(embedder: Embedder) -> None:
    texts = ["red", "a much longer question than the others are"]
    images = [noise_image(seed) for seed in range(3)]
    apart = [embedder.embed_texts([text])[0] for text in texts], [embedder.embed_images([one])[0] for one in images]
    assert np.abs(embedder.embed_texts(texts) - np.stack(apart[0])).max() <= 1e-5
    assert np.abs(embedder.embed_images(images) - np.stack(apart[1])).max() <= 1e-5


@given(st.lists(st.integers(0, 39), min_size=2, max_size=40))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_score_depends_on_the_batch_by_less_than_a_millionth(embedder: Embedder, drawn: list[int]) -> None:
    texts = [f"{'which ' * (number % 5)}hue {number}" for number in drawn]
    images = [noise_image(number % 6) for number in drawn]
    pairs = [(text, (image,)) for text, image in zip(texts, images, strict=True)]
    alone = np.stack([embedder.embed(Query(*pair)).row(embedder.spec) for pair in pairs])
    together = np.concatenate([embedder.embed_images(images), embedder.embed_texts(texts)], axis=1)
    change = (together - alone).astype(np.float64) @ alone.T
    assert np.abs(change).max() / 2 <= 1e-6


def test_cached_parts_of_queries_are_not_computed_again(folder: Path) -> None:
    embedder = Embedder.load(folder, cache_bytes=2**20)
    images = (noise_image(1), noise_image(2), noise_image(1))
    first = embedder.embed(Query("which hue?", images))
    assert (embedder.cache.hits, embedder.cache.misses, embedder.batches.items) == (0, 4, 1)
    again = embedder.embed(Query("which hue?", images))
    assert (embedder.cache.hits, embedder.batches.items) == (4, 1)
    assert np.array_equal(again.row(embedder.spec), first.row(embedder.spec))
    assert (again.text_tokens, again.text_limit) == (first.text_tokens, first.text_limit)
    embedder.embed(Query("how many?", images[:1]))
    assert (embedder.cache.hits, embedder.cache.misses, embedder.batches.items) == (5, 5, 2)


def test_an_embedder_of_other_weights_shares_no_cached_embeddings(tmp_path: Path) -> None:
    query = Query("which hue?", (noise_image(1),))
    folders = [tiny.save_embedder(*tiny.clip(), tmp_path / str(seed), seed=seed) for seed in (1, 2)]
    one, other = (Embedder.load(folder, cache_bytes=2**20) for folder in folders)
    one.embed(query)
    assert not np.allclose(other.embed(query).row(other.spec), one.embed(query).row(one.spec), atol=1e-3)
    assert (other.cache.hits, other.cache.misses) == (0, 2)


def test_padding_is_left_out_only_where_it_changes_nothing(embedder: Embedder) -> None:
    long = "which hue is the circle in the middle of the picture?"
    alone, beside_a_long_text = embedder.embed_texts(["hue"])[0], embedder.embed_texts(["hue", long])[0]
    assert np.abs(alone - beside_a_long_text).max() <= 1e-6


def test_a_query_without_text_or_image_has_no_embedding_of_it(embedder: Embedder) -> None:
    text, image = embedder.embed(Query("what is it?")), embedder.embed(Query(images=(noise_image(1),)))
    both = embedder.embed(Query("what is it?", (noise_image(1),)))
    assert text.image is None
    assert image.text is None
    assert both.text == pytest.approx(text.text, abs=1e-6)
    assert both.image == pytest.approx(image.image, abs=1e-6)


def test_several_images_are_averaged_and_normalised(embedder: Embedder) -> None:
    several = embedder.embed(Query(images=(noise_image(1), noise_image(2), noise_image(2)))).image
    one, two = embedder.embed_images([noise_image(1), noise_image(2)])
    assert several == pytest.approx(unit(one + 2 * two), abs=1e-5)


def test_the_end_of_a_text_longer_than_the_context_counts(embedder: Embedder) -> None:
    long = "what colour is it? " * 40
    row = embedder.embed_texts([long])[0]
    assert not np.allclose(row, embedder.embed_texts([long + "now something else"])[0], atol=1e-3)
    assert not np.allclose(row, embedder.embed_texts(["something else " + long])[0], atol=1e-3)


def test_tokens_after_the_last_window_have_no_influence(embedder: Embedder) -> None:
    long = "hue " * 4_000
    row = embedder.embed_texts([long])[0]
    assert np.array_equal(row, embedder.embed_texts([long + "now something else"])[0])
    assert embedder.truncates(long)


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_cover_every_text_up_to_the_limit(embedder: Embedder, before: int, after: int) -> None:
    """A word at any place changes the embedding, and the notice says that nothing was left out."""
    text, other = (" ".join(["hue"] * before + [word] + ["hue"] * after) for word in ("red", "circle"))
    found, changed = embedder.embed(Query(text)), embedder.embed(Query(other))
    assert found.text is not None
    assert changed.text is not None
    assert np.linalg.norm(found.text) == pytest.approx(1.0, abs=1e-5)
    assert found.text_cut is False
    assert not np.array_equal(found.text, changed.text)


def test_an_unreadable_image_is_refused(embedder: Embedder) -> None:
    with pytest.raises(InvalidImage):
        embedder.embed(Query(images=(noise_image(1), b"GIF89a")))


def test_an_embedder_is_thread_safe(embedder: Embedder) -> None:
    queries = [Query(f"query {number}", (noise_image(number),)) for number in range(8)]
    alone = [embedder.embed(query).row(embedder.spec) for query in queries]
    with ThreadPoolExecutor(4) as threads:
        together = [found.row(embedder.spec) for found in threads.map(embedder.embed, queries)]
    assert np.abs(np.stack(together) - np.stack(alone)).max() <= 1e-6


def test_the_fingerprint_identifies_the_weights(folder: Path, tmp_path: Path) -> None:
    assert Embedder.load(folder).spec == Embedder.load(folder).spec
    other = Embedder.load(tiny.save_embedder(*tiny.clip(), tmp_path, seed=9), embedder_id="acme/clip")
    assert other.spec.embedder_id == "acme/clip"
    assert other.spec.fingerprint != Embedder.load(folder).spec.fingerprint


def test_a_model_without_text_features_is_refused(tmp_path: Path) -> None:
    config, processor = tiny.clip()
    with pytest.raises(UnsupportedModel, match="CLIP or SigLIP"):
        Embedder.load(tiny.save_embedder(config.vision_config, processor, tmp_path))


def test_an_embedding_tells_whether_the_text_was_cut(embedder: Embedder) -> None:
    short, long = embedder.embed(Query("red circle")), embedder.embed(Query("red circle " * 2_000))
    assert 0 < short.text_tokens <= short.text_limit == long.text_limit < long.text_tokens
    assert (short.text_cut, long.text_cut) == (False, True)
    assert embedder.embed(Query(images=(noise_image(1),))).text_cut is False


def test_examples_whose_question_is_truncated_are_counted(embedder: Embedder) -> None:
    long = 2_000
    questions = ["which hue?", "which hue? " * long, "how many? " * long, "which hue? " * long]
    examples = [Example(noise_image(number), question, "red") for number, question in enumerate(questions)]
    assert embed_examples(embedder, examples).truncated == 3
    assert embed_examples(embedder, examples[:1]).truncated == 0
