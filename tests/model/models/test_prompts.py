"""Encoding prompts as batches: texts, images, token counts, targets and refused prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from tests.model import tiny
from tests.model.samples import ANSWERS, PROMPTS, noise_image, prompts, required_images
from vlibrary.domain.errors import InvalidImage, InvalidQuery, PromptTooLong, UnsupportedModel
from vlibrary.domain.wire import Demonstration, Prompt
from vlibrary.models.lvlm import Lvlm
from vlibrary.models.prompt_encoder import IGNORE, PromptEncoder


def decode_rows(lvlm: Lvlm, inputs: Any) -> list[str]:
    """Return the text of each row without its padding."""
    rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    return [lvlm.tokenizer.decode(ids[mask]) for ids, mask in rows]


def test_rows_are_padded_on_the_left_and_counted_without_padding(lvlm: Lvlm) -> None:
    batch = lvlm.encode(prompts(lvlm))
    mask = batch.inputs["attention_mask"]
    assert mask[:, -1].tolist() == [1, 1, 1, 1]
    assert batch.prompt_tokens == tuple(mask.sum(dim=1).tolist())
    assert len(set(batch.prompt_tokens)) >= 3
    assert batch.prompt_tokens == tuple(lvlm.encode([prompt]).prompt_tokens[0] for prompt in prompts(lvlm))


def test_a_prompt_has_the_same_text_alone_and_in_a_batch(lvlm: Lvlm) -> None:
    together = decode_rows(lvlm, lvlm.encode(prompts(lvlm)).inputs)
    assert together == [decode_rows(lvlm, lvlm.encode([prompt]).inputs)[0] for prompt in prompts(lvlm)]


def test_demonstrations_precede_the_question_and_images_their_text(llava: Lvlm) -> None:
    prompt = Prompt("third?", (noise_image(2),), (Demonstration("first?", (noise_image(0), noise_image(1)), "second"),))
    image = "<image>" * 4
    assert decode_rows(llava, llava.encode([prompt]).inputs) == [
        f"USER: {image}{image}first?\nASSISTANT: second</s>USER: {image}third?\nASSISTANT:"
    ]


def test_images_are_encoded_in_the_order_of_the_prompt(llava: Lvlm) -> None:
    flat = [noise_image(seed) for seed in (0, 1, 2, 3, 4, 5)]
    pixels = llava.encode(PROMPTS).inputs["pixel_values"]
    alone = [llava.encode([Prompt("?", (data,))]).inputs["pixel_values"][0] for data in flat]
    assert torch.equal(pixels, torch.stack(alone))


def test_a_batch_without_images_has_no_pixels(lvlm: Lvlm) -> None:
    if lvlm.requires_image:
        with pytest.raises(InvalidQuery, match="image in every prompt"):
            lvlm.encode([Prompt("one", (noise_image(0),)), Prompt("the other one")])
        return
    inputs = lvlm.encode([Prompt("one"), Prompt("the other one")]).inputs
    # Idefics 1 gets a black image that no token attends to.
    assert "pixel_values" not in inputs or not inputs["image_attention_mask"].any()


def test_targets_are_the_answer_and_its_end_token_shifted_by_one(lvlm: Lvlm) -> None:
    batch = lvlm.encode(prompts(lvlm), ANSWERS)
    assert batch.targets is not None
    ids = batch.inputs["input_ids"]
    for row, (targets, answer) in enumerate(zip(batch.targets, ANSWERS, strict=True)):
        mask = targets != IGNORE
        tokens = targets[mask]
        assert lvlm.tokenizer.decode(tokens, skip_special_tokens=True).strip() == answer
        assert tokens[-1].item() in lvlm.model.generation_config.eos_token_id
        assert torch.equal(ids[row, 1:][mask[:-1]], tokens)
        assert not mask[-1]
        assert mask.nonzero().flatten().diff().eq(1).all()
    plain = lvlm.encode(prompts(lvlm))
    assert batch.prompt_tokens == plain.prompt_tokens
    assert plain.targets is None


def test_teacher_forcing_and_generation_encode_the_same_prompt(lvlm: Lvlm) -> None:
    prompt = lvlm.encode(prompts(lvlm)[2:3]).inputs["input_ids"][0]
    with_answer = lvlm.encode(prompts(lvlm)[2:3], ANSWERS[2:3]).inputs["input_ids"][0]
    assert torch.equal(with_answer[: len(prompt)], prompt)


def _extend(value: Tensor, ids: Tensor, tokens: int) -> Tensor:
    """Repeat the last column of an input that has one per position."""
    if value.shape[:2] != ids.shape:
        return value
    return torch.cat([value, value[:, -1:].expand(-1, tokens, *value.shape[2:])], dim=1)


def test_teacher_forcing_predicts_the_tokens_of_greedy_decoding(lvlm: Lvlm) -> None:
    inputs = dict(lvlm.encode(prompts(lvlm)[2:3]).inputs)
    generated = lvlm.model.generate(**inputs, max_new_tokens=4, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    full = {name: _extend(value, inputs["input_ids"], generated.shape[1]) for name, value in inputs.items()}
    full["input_ids"] = torch.cat([inputs["input_ids"], generated], dim=1)
    if "PaliGemma" in lvlm.spec.architecture:
        full["token_type_ids"][:, -generated.shape[1] :] = 1  # the answer, with causal attention
    with torch.no_grad():
        likeliest: Tensor = lvlm.model(**full).logits.argmax(dim=-1)
    assert torch.equal(likeliest[:, -generated.shape[1] - 1 : -1], generated)


def test_mllama_refuses_a_batch_with_different_numbers_of_images(lvlm: Lvlm) -> None:
    """Its text before a row's first image attends to every image slot of the batch."""
    uneven = [Prompt("one", (noise_image(0),)), Prompt("two", (noise_image(1), noise_image(2)))]
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
            lvlm.encode([Prompt("?", required_images(lvlm))], [forged])
        with pytest.raises(InvalidQuery, match="control token"):
            lvlm.encode([Prompt("?", (), (Demonstration("a", (), forged),))])


@pytest.mark.parametrize(
    "text", ["<", "<picture>", "< image >", "{{ 7 * 7 }}{% raw %}", "naïve ☃ \N{DROMEDARY CAMEL}\n\n\ttab"]
)
def test_text_that_resembles_markup_is_encoded_unchanged(lvlm: Lvlm, text: str) -> None:
    assert text in decode_rows(lvlm, lvlm.encode([Prompt(text, required_images(lvlm))]).inputs)[0]


def test_a_prompt_that_exceeds_the_context_is_refused(lvlm: Lvlm) -> None:
    prompt = Prompt("word " * 40, required_images(lvlm))
    free = lvlm.context_length - lvlm.encode([prompt]).prompt_tokens[0]
    lvlm.encode([prompt], max_new_tokens=free)
    with pytest.raises(PromptTooLong, match=rf"{lvlm.context_length} tokens.* in the messages"):
        lvlm.encode([prompt], max_new_tokens=free + 1)
    with pytest.raises(PromptTooLong):
        lvlm.encode([Prompt("word " * lvlm.context_length, required_images(lvlm))])


@pytest.mark.parametrize("prompt", [Prompt(""), Prompt(" \n")])
def test_an_empty_prompt_is_refused(llava: Lvlm, prompt: Prompt) -> None:
    with pytest.raises(InvalidQuery, match="empty"):
        llava.encode([prompt])


def test_an_unreadable_image_is_refused(llava: Lvlm) -> None:
    with pytest.raises(InvalidImage):
        llava.encode([Prompt("?", (b"not an image",))])


@pytest.mark.parametrize("size", [1, 7, 500])
def test_images_of_any_size_are_accepted(lvlm: Lvlm, size: int) -> None:
    lvlm.encode([Prompt("?", (noise_image(0, size),))])


def encode_targets(lvlm: Lvlm, template: str, answer: str) -> str:
    """Return the text of the targets under another chat template."""
    processor = lvlm.processor
    original, processor.chat_template = processor.chat_template, template
    try:
        batch = PromptEncoder(processor, ["</s>"], 512).encode([Prompt("what?")], [answer])
    finally:
        processor.chat_template = original
    assert batch.targets is not None
    text: str = lvlm.tokenizer.decode(batch.targets[batch.targets != IGNORE])
    return text


TURNS = "{% for m in messages %}{{ m['role'] }}:{{ m['content'][-1]['text'] }}%END%{% endfor %}"
GENERATION_PROMPT = "{% if add_generation_prompt %}assistant:{% endif %}"


@pytest.mark.parametrize("end", ["</s>", "</s>\n", " ", ""])
def test_targets_end_with_one_end_token_under_every_template(llava: Lvlm, end: str) -> None:
    assert encode_targets(llava, TURNS.replace("%END%", end) + GENERATION_PROMPT, "red") == "red</s>"


def test_a_template_whose_generation_prompt_does_not_fit_is_refused(llava: Lvlm) -> None:
    with pytest.raises(UnsupportedModel, match="generation prompt"):
        encode_targets(
            llava, TURNS.replace("%END%", "\n") + GENERATION_PROMPT.replace("assistant:", "assistant (think):"), "red"
        )


def test_an_answer_that_the_tokenizer_merges_with_the_prompt_is_refused(llava: Lvlm) -> None:
    """The tiny tokenizer has the token 'ASSISTANT'."""
    turns = TURNS.replace("{{ m['role'] }}:", "ASSIS").replace("%END%", "</s>")
    with pytest.raises(InvalidQuery, match="merges"):
        encode_targets(llava, turns + GENERATION_PROMPT.replace("assistant:", "ASSIS"), "TANT")


@pytest.mark.parametrize("prefix", ["", "<s>"])
def test_every_prompt_has_one_begin_token(prefix: str) -> None:
    """Most tokenizers add it, and so do some chat templates."""
    _, processor = tiny.llava()
    backend = processor.tokenizer.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    processor.chat_template = prefix + processor.chat_template
    ids = PromptEncoder(processor, ["</s>"], 512).encode(PROMPTS[:3], ANSWERS[:3]).inputs["input_ids"]
    for row in ids:
        real = row[row != processor.tokenizer.pad_token_id].tolist()
        assert (real[0], real.count(1)) == (1, 1)


def test_a_processor_without_a_template_is_refused(llava: Lvlm) -> None:
    original, llava.processor.chat_template = llava.processor.chat_template, None
    try:
        with pytest.raises(UnsupportedModel, match="no chat_template"):
            Lvlm(llava.model, llava.processor, model_id="bare", slots=1)
    finally:
        llava.processor.chat_template = original


def test_a_verbatim_prompt_is_the_text_without_a_chat_template(lvlm: Lvlm) -> None:
    if lvlm.requires_image:
        with pytest.raises(InvalidQuery, match="image in every prompt"):
            lvlm.encode_on_host(Prompt("the answer is", verbatim=True), 1)
        return
    batch = lvlm.encode_on_host(Prompt("the answer is", verbatim=True), 1)
    (text,) = decode_rows(lvlm, batch.inputs)
    for token in lvlm.tokenizer.all_special_tokens:
        text = text.replace(token, "")
    assert text.strip() == "the answer is"


def test_a_prompt_of_tokens_is_encoded_as_its_text_is(lvlm: Lvlm) -> None:
    if lvlm.requires_image:
        return
    text = lvlm.encode_on_host(Prompt("the answer is", verbatim=True), 1)
    tokens = tuple(text.inputs["input_ids"][0].tolist())
    if any(name.startswith("pixel") for name in text.inputs):
        with pytest.raises(InvalidQuery, match="as tokens"):
            lvlm.encode_on_host(Prompt("", tokens=tokens), 1)
        return
    again = lvlm.encode_on_host(Prompt("", tokens=tokens), 1)
    assert again.prompt_tokens == text.prompt_tokens == (len(tokens),)
    assert again.inputs.keys() >= {"input_ids", "attention_mask"}
    for name in again.inputs:
        assert torch.equal(again.inputs[name], text.inputs[name]), name


def test_a_verbatim_prompt_may_hold_turns_but_no_reference_to_an_image(llava: Lvlm) -> None:
    batch = llava.encode_on_host(Prompt("USER: hue?</s>ASSISTANT:", verbatim=True), 1)
    assert decode_rows(llava, batch.inputs) == ["USER: hue?</s>ASSISTANT:"]
    with pytest.raises(InvalidQuery, match="<image>"):
        llava.encode_on_host(Prompt("<image> hue?", verbatim=True), 1)
    image = llava.tokenizer.convert_tokens_to_ids("<image>")
    for tokens, words in (
        ((image,), "stands for an image"),
        ((10**9,), "has the tokens 0 to"),
        ((-1,), "has the token"),
    ):
        with pytest.raises(InvalidQuery, match=words):
            llava.encode_on_host(Prompt("", tokens=tokens), 1)
    for prompt in (Prompt("", tokens=(1,) * llava.context_length), Prompt("one " * 2_000, verbatim=True)):
        with pytest.raises(PromptTooLong, match="in the prompt"):
            llava.encode_on_host(prompt, 1)
