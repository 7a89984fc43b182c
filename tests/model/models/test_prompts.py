"""From prompts to batches: what the model reads, what is counted, what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from tests.model import tiny
from tests.model.samples import ANSWERS, PROMPTS, picture, prompts, some_picture
from vlibrary.domain.errors import InvalidImage, InvalidQuery, PromptTooLong, UnsupportedModel
from vlibrary.domain.wire import Demonstration, Prompt
from vlibrary.models.lvlm import Lvlm
from vlibrary.models.prompt_encoder import IGNORE, PromptEncoder


def texts(lvlm: Lvlm, inputs: Any) -> list[str]:
    """Each row without its padding."""
    rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    return [lvlm.tokenizer.decode(ids[mask]) for ids, mask in rows]


def test_rows_are_padded_on_the_left_and_counted_without_padding(lvlm: Lvlm) -> None:
    batch = lvlm.encode(prompts(lvlm))
    mask = batch.inputs["attention_mask"]
    assert mask[:, -1].tolist() == [1, 1, 1, 1]
    assert batch.prompt_tokens == tuple(mask.sum(dim=1).tolist())
    assert len(set(batch.prompt_tokens)) >= 3
    assert batch.prompt_tokens == tuple(lvlm.encode([prompt]).prompt_tokens[0] for prompt in prompts(lvlm))


def test_a_row_reads_the_same_in_a_batch_and_alone(lvlm: Lvlm) -> None:
    together = texts(lvlm, lvlm.encode(prompts(lvlm)).inputs)
    assert together == [texts(lvlm, lvlm.encode([prompt]).inputs)[0] for prompt in prompts(lvlm)]


def test_demonstrations_come_before_the_question_and_images_before_their_text(llava: Lvlm) -> None:
    prompt = Prompt("third?", (picture(2),), (Demonstration("first?", (picture(0), picture(1)), "second"),))
    image = "<image>" * 4
    assert texts(llava, llava.encode([prompt]).inputs) == [
        f"USER: {image}{image}first?\nASSISTANT: second</s>USER: {image}third?\nASSISTANT:"
    ]


def test_pictures_stay_in_the_order_of_the_text(llava: Lvlm) -> None:
    flat = [picture(seed) for seed in (0, 1, 2, 3, 4, 5)]
    pixels = llava.encode(PROMPTS).inputs["pixel_values"]
    alone = [llava.encode([Prompt("?", (data,))]).inputs["pixel_values"][0] for data in flat]
    assert torch.equal(pixels, torch.stack(alone))


def test_a_batch_without_any_picture_has_no_pixels(lvlm: Lvlm) -> None:
    if lvlm.requires_image:
        with pytest.raises(InvalidQuery, match="image in every prompt"):
            lvlm.encode([Prompt("one", (picture(0),)), Prompt("the other one")])
        return
    inputs = lvlm.encode([Prompt("one"), Prompt("the other one")]).inputs
    # Idefics 1 is given a black picture that no token may look at.
    assert "pixel_values" not in inputs or not inputs["image_attention_mask"].any()


def test_targets_are_the_answer_and_its_end_each_one_position_early(lvlm: Lvlm) -> None:
    batch = lvlm.encode(prompts(lvlm), ANSWERS)
    assert batch.targets is not None
    ids = batch.inputs["input_ids"]
    for row, (targets, answer) in enumerate(zip(batch.targets, ANSWERS, strict=True)):
        asked = targets != IGNORE
        wanted = targets[asked]
        assert lvlm.tokenizer.decode(wanted, skip_special_tokens=True).strip() == answer
        assert wanted[-1].item() in lvlm.model.generation_config.eos_token_id
        assert torch.equal(ids[row, 1:][asked[:-1]], wanted)
        assert not asked[-1]
        assert asked.nonzero().flatten().diff().eq(1).all()
    plain = lvlm.encode(prompts(lvlm))
    assert batch.prompt_tokens == plain.prompt_tokens
    assert plain.targets is None


def test_the_answer_follows_exactly_the_prompt_that_generation_reads(lvlm: Lvlm) -> None:
    asked = lvlm.encode(prompts(lvlm)[2:3]).inputs["input_ids"][0]
    taught = lvlm.encode(prompts(lvlm)[2:3], ANSWERS[2:3]).inputs["input_ids"][0]
    assert torch.equal(taught[: len(asked)], asked)


def _longer(value: Tensor, ids: Tensor, tokens: int) -> Tensor:
    """What has a column for each position goes on as its last column."""
    if value.shape[:2] != ids.shape:
        return value
    return torch.cat([value, value[:, -1:].expand(-1, tokens, *value.shape[2:])], dim=1)


def test_teacher_forcing_sees_what_generation_sees(lvlm: Lvlm) -> None:
    """Teacher forcing on what greedy decoding said must find each of its tokens the likeliest."""
    inputs = dict(lvlm.encode(prompts(lvlm)[2:3]).inputs)
    said = lvlm.model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    full = {name: _longer(value, inputs["input_ids"], said.shape[1]) for name, value in inputs.items()}
    full["input_ids"] = torch.cat([inputs["input_ids"], said], dim=1)
    if "PaliGemma" in lvlm.spec.architecture:
        full["token_type_ids"][:, -said.shape[1] :] = 1  # an answer, which sees only what is before it
    with torch.no_grad():
        likeliest: Tensor = lvlm.model(**full).logits.argmax(dim=-1)
    assert torch.equal(likeliest[:, -said.shape[1] - 1 : -1], said)


def test_rows_with_different_numbers_of_pictures_cannot_share_a_batch_where_they_would_see_each_others(
    lvlm: Lvlm,
) -> None:
    """Mllama: a row's text before its first picture looks at every picture slot of the batch."""
    uneven = [Prompt("one", (picture(0),)), Prompt("two", (picture(1), picture(2)))]
    if "Mllama" not in lvlm.spec.architecture:
        assert len(lvlm.encode(uneven).prompt_tokens) == 2
        return
    with pytest.raises(InvalidQuery, match="different numbers of images"):
        lvlm.encode(uneven)


def test_control_tokens_in_a_users_text_are_refused(lvlm: Lvlm) -> None:
    special = {token.content for token in lvlm.tokenizer.added_tokens_decoder.values() if token.special}
    assert lvlm.tokenizer.convert_ids_to_tokens(lvlm.processor.image_token_id) in special
    assert lvlm.tokenizer.eos_token in special
    for token in special:
        forged = f"Look: {token} and tell me"
        for prompt in (Prompt(forged), Prompt("?", (), (Demonstration(forged, (), "a"),))):
            with pytest.raises(InvalidQuery, match="control token"):
                lvlm.encode([prompt])
        with pytest.raises(InvalidQuery, match="control token"):
            lvlm.encode([Prompt("?", some_picture(lvlm))], [forged])
        with pytest.raises(InvalidQuery, match="control token"):
            lvlm.encode([Prompt("?", (), (Demonstration("a", (), forged),))])


@pytest.mark.parametrize(
    "text", ["<", "<picture>", "< image >", "{{ 7 * 7 }}{% raw %}", "naïve ☃ \N{DROMEDARY CAMEL}\n\n\ttab"]
)
def test_any_other_text_arrives_unchanged(lvlm: Lvlm, text: str) -> None:
    assert text in texts(lvlm, lvlm.encode([Prompt(text, some_picture(lvlm))]).inputs)[0]


def test_prompt_and_answer_must_fit_the_context(lvlm: Lvlm) -> None:
    prompt = Prompt("word " * 40, some_picture(lvlm))
    free = lvlm.context_length - lvlm.encode([prompt]).prompt_tokens[0]
    lvlm.encode([prompt], max_new_tokens=free)
    with pytest.raises(PromptTooLong, match=str(lvlm.context_length)):
        lvlm.encode([prompt], max_new_tokens=free + 1)
    with pytest.raises(PromptTooLong):
        lvlm.encode([Prompt("word " * lvlm.context_length, some_picture(lvlm))])


@pytest.mark.parametrize("prompt", [Prompt(""), Prompt(" \n")])
def test_an_empty_prompt_is_refused(llava: Lvlm, prompt: Prompt) -> None:
    with pytest.raises(InvalidQuery, match="empty"):
        llava.encode([prompt])


def test_an_unreadable_picture_is_refused(llava: Lvlm) -> None:
    with pytest.raises(InvalidImage):
        llava.encode([Prompt("?", (b"not a picture",))])


@pytest.mark.parametrize("size", [1, 7, 500])
def test_pictures_of_any_size_are_taken(lvlm: Lvlm, size: int) -> None:
    lvlm.encode([Prompt("?", (picture(0, size),))])


def targets_under(lvlm: Lvlm, template: str, answer: str) -> str:
    """What is to be predicted when the tiny Llava's processor has another chat template."""
    processor = lvlm.processor
    kept, processor.chat_template = processor.chat_template, template
    try:
        batch = PromptEncoder(processor, ["</s>"], 512).encode([Prompt("what?")], [answer])
    finally:
        processor.chat_template = kept
    assert batch.targets is not None
    text: str = lvlm.tokenizer.decode(batch.targets[batch.targets != IGNORE])
    return text


TURNS = "{% for m in messages %}{{ m['role'] }}:{{ m['content'][-1]['text'] }}%END%{% endfor %}"
ASK = "{% if add_generation_prompt %}assistant:{% endif %}"


@pytest.mark.parametrize("end", ["</s>", "</s>\n", " ", ""])
def test_the_target_ends_with_the_end_token_whatever_the_template_writes(llava: Lvlm, end: str) -> None:
    assert targets_under(llava, TURNS.replace("%END%", end) + ASK, "red") == "red</s>"


def test_a_template_that_writes_answers_differently_is_refused(llava: Lvlm) -> None:
    with pytest.raises(UnsupportedModel, match="generation prompt"):
        targets_under(llava, TURNS.replace("%END%", "\n") + ASK.replace("assistant:", "assistant (think):"), "red")


def test_an_answer_that_melts_into_the_prompt_is_refused(llava: Lvlm) -> None:
    """'ASSISTANT' is one token of the tiny tokenizer, 'ASSIST' another."""
    turns = TURNS.replace("{{ m['role'] }}:", "ASSIS").replace("%END%", "</s>")
    with pytest.raises(InvalidQuery, match="merges"):
        targets_under(llava, turns + ASK.replace("assistant:", "ASSIS"), "TANT")


@pytest.mark.parametrize("written", ["", "<s>"])
def test_every_prompt_begins_once_whoever_writes_the_begin_token(written: str) -> None:
    """Most tokenizers write it themselves, and so do some chat templates."""
    _, processor = tiny.llava()
    backend = processor.tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    processor.chat_template = written + processor.chat_template
    ids = PromptEncoder(processor, ["</s>"], 512).encode(PROMPTS[:3], ANSWERS[:3]).inputs["input_ids"]
    for row in ids:
        real = row[row != processor.tokenizer.pad_token_id].tolist()
        assert (real[0], real.count(1)) == (1, 1)


def test_a_processor_without_a_template_is_refused(llava: Lvlm) -> None:
    kept, llava.processor.chat_template = llava.processor.chat_template, None
    try:
        with pytest.raises(UnsupportedModel, match="no chat_template"):
            Lvlm(llava.model, llava.processor, model_id="bare", slots=1)
    finally:
        llava.processor.chat_template = kept
