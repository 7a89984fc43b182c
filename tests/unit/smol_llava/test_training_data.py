"""What smol-llava is trained on: pictures with descriptions, conventions, and episodes as token ids."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vlibrary.smol_llava.making import conventions, pictures
from vlibrary.smol_llava.making.conventions import draw_convention
from vlibrary.smol_llava.making.episodes import Layout, Pool, Writer
from vlibrary.smol_llava.making.folder import build_processor
from vlibrary.smol_llava.making.pictures import SLOTS, Pictures, all_words, describe
from vlibrary.smol_llava.making.words import PAIRS, VALUES
from vlibrary.smol_llava.tasks import CODED, NATURAL, TEXTUAL, show

KINDS = ("scene", "digit", "shape", "photo", "noise")
DRAW: dict[str, Callable[..., Pictures]] = {
    "scene": pictures.scene_pictures,
    "digit": pictures.digit_pictures,
    "shape": pictures.shape_pictures,
    "photo": pictures.photo_pictures,
    "noise": pictures.noise_pictures,
}


@pytest.fixture(scope="module")
def pool() -> Pool:
    drawn = [DRAW[kind](20, "train", 0) for kind in KINDS]
    facts = [shown for each in drawn for shown in each.facts]
    members = {kind: np.arange(20) + 20 * number for number, kind in enumerate(KINDS)}
    return Pool(facts, members)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"]
    backend = Tokenizer(models.BPE({token: number for number, token in enumerate([*specials, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(specials)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")


def sample_pairs(pool: Pool, episodes: int) -> set[tuple[str, str]]:
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(episodes):
        convention = draw_convention(rng)
        members = pool.members.get(convention.kind)
        for _ in range(3):
            facts = pool.facts[int(rng.choice(members))] if members is not None else {}
            found.add(convention.ask(facts, rng))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_has_nine_words(kind: str) -> None:
    drawn = DRAW[kind](8, "train", 0)
    assert drawn.kind == kind
    for facts in drawn.facts:
        words = describe(kind, facts)
        assert len(words) == SLOTS
        assert {word for word in words if word is not None} <= set(all_words())


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_are_the_same_for_the_same_seed_only(kind: str) -> None:
    first, same, other, unseen = (
        DRAW[kind](4, split, seed).pixels for split, seed in (("train", 1), ("train", 1), ("train", 2), ("test", 1))
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, unseen)


@pytest.mark.parametrize("side", [32, 64])
def test_training_scales_pictures_as_the_processor_does(tokenizer: PreTrainedTokenizerFast, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3)).astype(np.uint8)
    smooth = np.array(Image.fromarray(pixels[0]).resize((8, 8)).resize((side, side), Image.Resampling.BICUBIC))
    given = build_processor(tokenizer)(images=[Image.fromarray(smooth)], text="<image>", return_tensors="pt")
    expected = given["pixel_values"][0]
    assert (pictures.to_input(smooth[None])[0] - expected).abs().mean() < 0.01


def test_the_facts_of_easy_vqa_come_from_its_questions(tmp_path: Path) -> None:
    questions = [
        ["what color is the shape?", "blue", 0],
        ["is there not a triangle?", "no", 0],
        ["does the image contain a red shape?", "no", 1],
        ["is a circle present?", "yes", 1],
    ]
    buffer = io.BytesIO()
    Image.new("RGBA", (64, 64), "white").save(buffer, format="PNG")
    wheel = tmp_path / "easy.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("easy_vqa/data/train/questions.json", json.dumps(questions))
        for number in range(2):
            archive.writestr(f"easy_vqa/data/train/images/{number}.png", buffer.getvalue())
    split = pictures.easy_vqa(wheel, "train")
    assert split.pictures.pixels.shape == (2, 64, 64, 3)
    known = {"count": "one"}
    assert split.pictures.facts == [{**known, "colour": "blue", "shape": "triangle"}, {**known, "shape": "circle"}]
    assert split.questions[2] == ("does the image contain a red shape?", "no", 1)


def test_no_question_and_answer_of_evaluation_is_in_training(pool: Pool) -> None:
    trained = sample_pairs(pool, 4000)
    rng = np.random.default_rng(0)
    for task in (*NATURAL, *CODED):
        _, facts = show(task.kind, 60, "test", rng)
        assert not {task.ask(shown, rng) for shown in facts} & trained, task.name
    assert not {pair for task in TEXTUAL for pair in task.pairs} & {pair for pairs in PAIRS.values() for pair in pairs}


def test_code_words_of_evaluation_are_not_in_training(pool: Pool) -> None:
    rng = np.random.default_rng(0)
    coded = {task.ask(shown, rng)[1] for task in CODED for shown in show(task.kind, 60, "test", rng)[1]}
    assert not coded & {answer for _, answer in sample_pairs(pool, 4000)}


def test_a_convention_answers_the_same_facts_in_the_same_way(pool: Pool) -> None:
    rng = np.random.default_rng(3)
    facts = {name: values[0] for name, values in VALUES.items()}
    for _ in range(300):
        convention = conventions._one_attribute("scene", rng)
        assert len({convention.ask(facts, rng)[1] for _ in range(4)}) == 1


def test_easy_questions_are_answered_truly() -> None:
    rng = np.random.default_rng(0)
    facts = {"shape": "circle", "colour": "red", "count": "one"}
    found = {conventions.easy_question(facts, rng) for _ in range(3000)}
    assert ("is there a circle?", "yes") in found
    assert ("is there not a red shape?", "no") in found
    assert ("is there a triangle?", "no") in found
    assert ("what color is the circle?", "red") in found
    assert ("is no teal shape present?", "yes") in found


def test_episodes_are_written_as_the_chat_template_writes_them(tokenizer: PreTrainedTokenizerFast) -> None:
    processor: Any = build_processor(tokenizer)
    layout = Layout(tokenizer, "<image>")
    for question, answer in (("What is it?", "a 3"), ("größe:", '{"a": "b"}'), ("- x", "'y'")):
        for pictured in (True, False):
            image = [{"type": "image"}] if pictured else []
            turns = [
                {"role": "user", "content": [*image, {"type": "text", "text": question}]},
                {"role": "assistant", "content": [{"type": "text", "text": answer}]},
            ]
            images = {"images": [Image.new("RGB", (9, 9))] * 2} if pictured else {}
            inputs = processor(text=processor.apply_chat_template(turns * 2), return_tensors="pt", **images)
            assert inputs["input_ids"][0].tolist() == layout.turn(question, answer, pictured)[0] * 2


def test_a_batch_marks_the_tokens_of_its_answers(pool: Pool, tokenizer: PreTrainedTokenizerFast) -> None:
    layout = Layout(tokenizer, "<image>")
    batch = Writer(layout, pool).batch(6, 500, np.random.default_rng(0))
    flat = batch.ids.flatten()
    assert (flat[batch.places + 1] == batch.targets).all()
    assert int((batch.ids == layout.image).sum()) == SLOTS * len(batch.pictures)
    assert (batch.targets == layout.end).any()
    assert (batch.weights > 0).all()
    assert (batch.weights[~batch.fresh] == 1).all()
    assert batch.shots.min() == 0
