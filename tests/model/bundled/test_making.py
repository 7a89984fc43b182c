"""The parts of the bundled models' build."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vlibrary.bundled.making.build import build
from vlibrary.bundled.making.decoder import SHOTS
from vlibrary.bundled.making.episodes import Curriculum, Difficulty, Episode, draw_episode
from vlibrary.bundled.making.lvlm import build_model, build_processor
from vlibrary.bundled.making.reading import Layout, read
from vlibrary.bundled.making.vision import cache_states, digit_pictures, normalise, scene_pictures
from vlibrary.bundled.world.words import VALUES


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one torch thread: steps this small gain nothing from a second, and on a busy machine wait a minute for it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lvlm, embedder"):
        build(tmp_path, stages=["wheel"])


def test_splits_are_deterministic_and_share_no_image() -> None:
    for pictures in (scene_pictures, digit_pictures):
        train, again, test = pictures(32, "train", 5), pictures(32, "train", 5), pictures(32, "test", 5)
        assert np.array_equal(train.pixels, again.pixels)
        assert not {image.tobytes() for image in train.pixels} & {image.tobytes() for image in test.pixels}


def test_reading_cached_states_equals_the_models_forward_pass() -> None:
    """Training runs on cached states, `generate` on images and tokens; both must compute the same."""
    processor = build_processor()
    model = build_model(processor, seed=0)
    model.set_attn_implementation("eager")
    pictures = [scene_pictures(80, "train", 0), digit_pictures(80, "train", 0)]
    cached, layout = cache_states(model, pictures), Layout(processor)
    rng = np.random.default_rng(0)
    shares = dict.fromkeys(VALUES, 1 / len(VALUES))
    episodes = [draw_episode(cached.pool, 3, Difficulty.at(0.5, 0.5), rng, shares) for _ in range(2)]
    batch = layout.batch(episodes, rng)
    pixels = normalise(np.concatenate([each.pixels for each in pictures]))[batch.images]
    with torch.no_grad():
        words = read(model, batch, cached, layout.image).words
        logits = model(input_ids=batch.ids, pixel_values=pixels, attention_mask=(batch.ids != layout.pad).long()).logits
    expected = logits[torch.arange(2)[:, None], batch.answers]
    assert torch.allclose(words, expected, atol=2e-4)


def _episode(attribute: str, repeated: bool) -> Episode:
    values = np.zeros(SHOTS, dtype=np.int64)
    again = np.full(SHOTS, repeated)
    again[0] = False
    return Episode(attribute, "clan", True, True, {0: "wug"}, values, values, again)


def test_the_level_rises_only_when_weak_attributes_improve() -> None:
    curriculum = Curriculum(ramp=10, fading=10)
    correct = np.ones((1, SHOTS), dtype=np.bool_)
    for _ in range(400):
        curriculum.update([_episode("digit", repeated=False)], correct)
    assert curriculum.level == 0.0
    assert curriculum.shares()["digit"] < curriculum.shares()["shape"]
    for _ in range(400):
        curriculum.update([_episode(attribute, repeated=False) for attribute in VALUES], np.repeat(correct, 9, axis=0))
    assert curriculum.level == 1.0
    assert curriculum.fade == 0.0


def test_repeats_fade_once_copying_is_learned() -> None:
    curriculum = Curriculum(ramp=10, fading=10)
    for _ in range(600):
        curriculum.update([_episode("digit", repeated=True)], np.ones((1, SHOTS), dtype=np.bool_))
    assert curriculum.fade == 1.0
    assert curriculum.level == 0.0
