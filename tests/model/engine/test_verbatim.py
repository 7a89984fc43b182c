"""Verbatim prompts: the answer continues the text, the same from text and tokens, on both engines."""

from __future__ import annotations

import pytest

from tests.model.engine.test_inflight import RecordedRequest, answer_statically, run
from tests.model.samples import vector
from vlibrary.domain.wire import Decoding, Generation, Prompt
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.models.lvlm import Lvlm

DECODING = Decoding(max_new_tokens=6, logprobs=1, prompt_logprobs=1)
TEXT = "the red circle is"


def answers(lvlm: Lvlm, *prompts: Prompt, seed: int = 0) -> list[Generation]:
    requests = [RecordedRequest(lvlm, one, vector(lvlm.spec, seed) if seed else None, DECODING) for one in prompts]
    run(InFlightEngine(lvlm), requests, steps_between=1)
    return [one.generation for one in requests]


@pytest.mark.parametrize("seed", [0, 1])
def test_text_and_tokens_have_the_same_answer_on_both_engines(lvlm: Lvlm, seed: int) -> None:
    if lvlm.requires_image:
        return
    (by_text,) = answers(lvlm, Prompt(TEXT, verbatim=True), seed=seed)
    assert by_text.prompt_logprobs is not None
    ids = tuple(one.token for one in by_text.prompt_logprobs)
    assert len(ids) == by_text.prompt_tokens
    prompts = [Prompt(TEXT, verbatim=True)]
    if not any(name.startswith("pixel") for name in lvlm.encode_on_host(prompts[0], 1).inputs):
        prompts.append(Prompt("", verbatim=True, tokens=ids))
    for prompt, generation in zip(prompts, answers(lvlm, *prompts, seed=seed), strict=True):
        alone = answer_statically(lvlm, prompt, vector(lvlm.spec, seed) if seed else None, DECODING)
        assert generation.text == alone.text == by_text.text
        assert [one.token for one in generation.logprobs or ()] == [one.token for one in by_text.logprobs or ()]


def test_prompt_and_answer_join_to_the_text_of_their_tokens(llava: Lvlm) -> None:
    (found,) = answers(llava, Prompt(TEXT, verbatim=True))
    tokens = [one.token for one in (*(found.prompt_logprobs or ()), *(found.logprobs or ()))]
    assert TEXT + found.text == llava.tokenizer.decode(tokens, skip_special_tokens=True)
