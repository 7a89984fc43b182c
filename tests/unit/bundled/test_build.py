"""The build in miniature, and the pieces that its result rests on."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from vlibrary.bundled.making.batches import Layout
from vlibrary.bundled.making.build import Schedule, build
from vlibrary.bundled.making.curriculum import Curriculum
from vlibrary.bundled.making.decoder import SHOTS, Plan, _prepare
from vlibrary.bundled.making.episodes import Difficulty, Episode, draw_episode
from vlibrary.bundled.making.lvlm import build_model
from vlibrary.bundled.making.reading import read
from vlibrary.bundled.making.states import cache
from vlibrary.bundled.making.tokenizer import build_processor
from vlibrary.bundled.making.vision import digit_pictures, normalise, scene_pictures
from vlibrary.bundled.tasks import TASKS
from vlibrary.bundled.world.words import VALUES

TINY = Schedule(
    vision_steps=2,
    vision_pool=60,
    scenes=120,
    digits=60,
    unseen=240,
    embedder_steps=2,
    embedder_pool=300,
    queries=2,
    decoder=Plan(steps=2, episodes=2, rows=1, compiled=False),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps this small only wait for a second thread, on a busy machine for a minute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_build_writes_both_models_and_the_curves(tmp_path: Path) -> None:
    build(tmp_path, seed=1, schedule=TINY, console=Console(quiet=True))
    assert (tmp_path / "lvlm" / "model.safetensors").is_file()
    assert (tmp_path / "embedder" / "model.safetensors").is_file()
    assert (tmp_path / "curves.png").stat().st_size > 1000
    record = json.loads((tmp_path / "curves.json").read_text())
    assert set(record["shots"]) == {each.name for each in TASKS}
    assert set(record["seconds"]) == {"vision", "decoder", "embedder"}


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lvlm, embedder"):
        build(tmp_path, stages=["wheel"])


def test_pictures_of_a_split_repeat_and_differ_from_the_other() -> None:
    for pictures in (scene_pictures, digit_pictures):
        train, again, test = pictures(32, "train", 5), pictures(32, "train", 5), pictures(32, "test", 5)
        assert np.array_equal(train.pixels, again.pixels)
        assert not {image.tobytes() for image in train.pixels} & {image.tobytes() for image in test.pixels}


def test_reading_cached_states_is_the_models_own_forward_pass() -> None:
    """What is trained on cached states must be what ``generate`` will run on pictures and tokens."""
    processor = build_processor()
    model = build_model(processor, seed=0)
    _prepare(model, Plan(compiled=False))
    pictures = [scene_pictures(80, "train", 0), digit_pictures(80, "train", 0)]
    cached, layout = cache(model, pictures), Layout(processor)
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


def test_the_curriculum_waits_for_the_weak_attributes() -> None:
    curriculum = Curriculum(ramp=10, fading=10)
    good = np.ones((1, SHOTS), dtype=np.bool_)
    for _ in range(400):
        curriculum.update([_episode("digit", repeated=False)], good)
    assert curriculum.level == 0.0
    assert curriculum.shares()["digit"] < curriculum.shares()["shape"]
    for _ in range(400):
        curriculum.update([_episode(attribute, repeated=False) for attribute in VALUES], np.repeat(good, 9, axis=0))
    assert curriculum.level == 1.0
    assert curriculum.fade == 0.0


def test_repeats_fade_once_copying_is_learned() -> None:
    curriculum = Curriculum(ramp=10, fading=10)
    for _ in range(600):
        curriculum.update([_episode("digit", repeated=True)], np.ones((1, SHOTS), dtype=np.bool_))
    assert curriculum.fade == 1.0
    assert curriculum.level == 0.0
