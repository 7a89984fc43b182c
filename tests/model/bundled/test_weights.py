"""The bundled weights: sizes, loading by the Auto classes, chat template, single-token answers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

from vlibrary.bundled import EMBEDDER_FOLDER, LVLM_FOLDER
from vlibrary.bundled.making.lvlm import ANSWER, answer_words
from vlibrary.bundled.tasks import TASKS
from vlibrary.models.small_encoder import register_encoder

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(LVLM_FOLDER, backend="pil")


def _chat(shots: int) -> list[dict[str, Any]]:
    """A conversation of `shots` answered questions and an open one; every image is a grey square."""
    picture = Image.new("RGB", (32, 32), (90, 90, 90))
    asked: dict[str, Any] = {
        "role": "user",
        "content": [{"type": "image", "image": picture}, {"type": "text", "text": "Which club?"}],
    }
    answered: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": "bouba"}]}
    return [*([asked, answered] * shots), asked]


def _prompt(processor: Any, shots: int) -> Any:
    return processor.apply_chat_template(
        _chat(shots), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )


@pytest.mark.parametrize(("folder", "limit"), [(LVLM_FOLDER, 12), (EMBEDDER_FOLDER, 6)])
def test_a_model_is_small_on_disk(folder: Path, limit: int) -> None:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert size <= limit * MEGABYTE


def test_every_answer_is_one_token_after_the_separator(processor: Any) -> None:
    for word in [*answer_words(), *(word for each in TASKS for word in each.answers.values())]:
        assert len(processor.tokenizer.encode(ANSWER + word)) == 2, word


def test_the_template_renders_a_conversation(processor: Any) -> None:
    text = processor.apply_chat_template(_chat(1), add_generation_prompt=True)
    assert text == "<s><image>Which club?<answer>bouba</s><image>Which club?<answer>"


def test_the_tokenizer_is_lossless_for_any_text(processor: Any) -> None:
    text = "Wie groß ist das? 数字 \N{PILE OF POO} {x}"
    assert processor.tokenizer.decode(processor.tokenizer.encode(text)) == text


def test_a_zero_shot_prompt_has_a_tenth_of_the_tokens_of_sixteen_shots(processor: Any) -> None:
    lengths = [_prompt(processor, shots)["input_ids"].shape[1] for shots in (0, 16)]
    assert lengths[0] * 10 <= lengths[1]


def test_the_language_model_answers_and_stops(processor: Any) -> None:
    model: Any = AutoModelForImageTextToText.from_pretrained(LVLM_FOLDER)
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert model.dtype == torch.float32
    assert model.config.text_config.max_position_embeddings >= 512
    inputs = _prompt(processor, 16)
    assert inputs["pixel_values"].shape == (17, 3, 32, 32)
    out = model.generate(**inputs, max_new_tokens=4)
    answer = processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer == "bouba"


def test_the_embedder_embeds_images_and_texts() -> None:
    register_encoder()
    model: Any = AutoModel.from_pretrained(EMBEDDER_FOLDER, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(EMBEDDER_FOLDER, backend="pil")
    picture = Image.new("RGB", (40, 30), (200, 30, 30))
    inputs = processor(images=[picture], text=["Which club?"], return_tensors="pt", padding=True, truncation=True)
    image = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
    text = model.get_text_features(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
    assert image.shape == (1, model.config.image_size)
    assert text.shape == (1, model.config.meaning + model.config.hashed)
