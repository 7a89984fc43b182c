"""Log-probabilities and other options: in flight as alone, on both engines, and without effect on other rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.model.engine.test_inflight import RecordedRequest, answer_statically, run
from tests.model.samples import PROMPTS, Mixed, prompts, vector
from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.wire import Decoding, Generation, ScoredToken, TextPiece
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.models.lvlm import Lvlm

TOLERANCE = 1e-4  # that of the logits themselves
SCORED = Decoding(max_new_tokens=6, logprobs=3, prompt_logprobs=2)


def answered(lvlm: Lvlm, *requests: RecordedRequest, steps_between: int = 1) -> list[Generation]:
    run(InFlightEngine(lvlm), requests, steps_between=steps_between)
    return [one.generation for one in requests]


def answer(lvlm: Lvlm, decoding: Decoding, *, prompt: int = 1, seed: int = 0) -> Generation:
    steering = vector(lvlm.spec, seed) if seed else None
    (one,) = answered(lvlm, RecordedRequest(lvlm, PROMPTS[prompt], steering, decoding))
    return one


def assert_close(got: Sequence[ScoredToken] | None, expected: Sequence[ScoredToken] | None) -> None:
    assert got is not None
    assert expected is not None
    assert [one.token for one in got] == [one.token for one in expected]
    for one, other in zip(got, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=TOLERANCE)
        assert one.data == other.data
        assert len(one.top) == len(other.top)
        values, others = ([scored.logprob for scored in each.top] for each in (one, other))
        assert values == pytest.approx(others, abs=TOLERANCE)


def test_logprobs_in_a_mixed_batch_are_those_of_a_solo_run(lvlm: Lvlm) -> None:
    def requests() -> list[RecordedRequest]:
        return [
            RecordedRequest(lvlm, prompt, steering, decoding)
            for prompt, steering, decoding in zip(
                prompts(lvlm), Mixed(lvlm).vectors, (SCORED, Decoding(max_new_tokens=6), SCORED, SCORED), strict=True
            )
        ]

    together = answered(lvlm, *requests())
    for got, one in zip(together, requests(), strict=True):
        (alone,) = answered(lvlm, one)
        request = one.request
        by_generate = answer_statically(lvlm, request.prompt.prompt, request.vector, request.decoding)
        assert got.text == alone.text == by_generate.text
        if request.decoding.logprobs is None:
            assert got.logprobs is None
            assert got.prompt_logprobs is None
            continue
        for reference in (alone, by_generate):
            assert_close(got.logprobs, reference.logprobs)
            assert_close(got.prompt_logprobs, reference.prompt_logprobs)


def test_prompt_logprobs_are_those_of_one_forward_pass(lvlm: Lvlm) -> None:
    prompt, steering = prompts(lvlm)[2], vector(lvlm.spec, 1)
    one = RecordedRequest(lvlm, prompt, steering, replace(SCORED, max_new_tokens=0))
    (got,) = answered(lvlm, one)
    inputs = lvlm.encode([prompt]).inputs
    ids = inputs["input_ids"][0]
    with lvlm.table.pin_batch([steering]) as slots, lvlm.injector.active(lvlm.table.prefill_edits(slots, len(ids))):
        logits = lvlm.model(**inputs, use_cache=False).logits[0]
    expected = logits.double().log_softmax(dim=-1)[:-1].gather(1, ids[1:, None])[:, 0]
    assert got.prompt_logprobs is not None
    first, *rest = got.prompt_logprobs
    assert (first.token, first.logprob, first.top) == (int(ids[0]), None, ())
    assert [scored.token for scored in rest] == ids[1:].tolist()
    assert [scored.logprob for scored in rest] == pytest.approx(expected.tolist(), abs=TOLERANCE)
    assert (got.text, got.completion_tokens, got.finish_reason) == ("", 0, "length")


def test_asking_for_logprobs_changes_no_bit_of_a_neighbour(llava: Lvlm) -> None:
    def neighbours(decoding: Decoding) -> list[torch.Tensor]:
        requests = [
            RecordedRequest(llava, PROMPTS[0], vector(llava.spec, 1), Decoding(max_new_tokens=6)),
            RecordedRequest(llava, PROMPTS[2], None, decoding),
        ]
        seen: list[torch.Tensor] = []
        handle = llava.model.register_forward_hook(lambda _model, _args, out: seen.append(out.logits[0, -1].clone()))
        try:
            answered(llava, *requests, steps_between=1)
        finally:
            handle.remove()
        return seen

    plain = neighbours(Decoding(max_new_tokens=6))
    request = neighbours(Decoding(max_new_tokens=6, logprobs=20, presence_penalty=0.0))
    assert all(torch.equal(one, other) for one, other in zip(plain, request, strict=True))


def test_the_chosen_token_of_a_greedy_answer_is_the_first_of_the_top(llava: Lvlm) -> None:
    scored = answer(llava, Decoding(max_new_tokens=8, logprobs=1)).logprobs
    assert scored
    for one in scored:
        assert one.top[0].token == one.token
        assert one.top[0].logprob == one.logprob


def test_logprobs_are_those_before_temperature_penalties_and_bias(llava: Lvlm) -> None:
    """The model's own distribution, whatever it was sampled from."""
    plain = answer(llava, Decoding(max_new_tokens=1, logprobs=20)).logprobs
    changed = answer(
        llava,
        Decoding(max_new_tokens=1, logprobs=20, temperature=3.0, seed=4, logit_bias=((7, 3.0),), top_k=5),
    ).logprobs
    assert plain
    assert changed
    assert plain[0].top == changed[0].top


def test_pieces_carry_the_logprobs_of_their_tokens(llava: Lvlm) -> None:
    one = RecordedRequest(llava, PROMPTS[1], None, Decoding(max_new_tokens=12, logprobs=0))
    (whole,) = answered(llava, one)
    pieces = [event for event in one.events if isinstance(event, TextPiece)]
    streamed = [scored for piece in pieces for scored in piece.logprobs]
    assert whole.logprobs is not None
    assert tuple(streamed) == whole.logprobs[: len(streamed)]
    assert all(piece.tokens == sum(len(one.logprobs) for one in pieces[: at + 1]) for at, piece in enumerate(pieces))
    assert len(whole.logprobs) == whole.completion_tokens
    assert b"".join(scored.data for scored in whole.logprobs).decode(errors="replace").strip() == whole.text


def test_the_bytes_of_the_tokens_join_to_the_text_before_a_stop_text(llava: Lvlm) -> None:
    plain = answer(llava, Decoding(max_new_tokens=12, logprobs=0))
    stop = plain.text[3:6]
    stopped = answer(llava, Decoding(max_new_tokens=12, logprobs=0, stop=(stop,)))
    assert stopped.finish_reason == "stop"
    assert stopped.logprobs is not None
    assert b"".join(one.data for one in stopped.logprobs).decode(errors="replace").startswith(stopped.text)
    assert len(stopped.logprobs) == stopped.completion_tokens


END = Decoding(max_new_tokens=5)


def end_after_two(llava: Lvlm) -> int:
    """Return the third token of the greedy answer, so that a test can make it an end."""
    scored = answer(llava, replace(END, logprobs=0)).logprobs
    assert scored is not None
    ids = [one.token for one in scored]
    assert ids[2] not in ids[:2]
    return ids[2]


def test_a_stop_token_ends_the_answer_without_its_text(llava: Lvlm) -> None:
    stopped = answer(llava, replace(END, logprobs=0, stop_token_ids=(end_after_two(llava),)))
    assert (stopped.finish_reason, stopped.completion_tokens) == ("stop", 3)
    assert stopped.logprobs is not None
    assert len(stopped.logprobs) == 2


def test_no_end_token_comes_before_min_new_tokens(llava: Lvlm) -> None:
    end = end_after_two(llava)
    one = answer(llava, replace(END, logprobs=0, stop_token_ids=(end,), min_new_tokens=5))
    assert one.completion_tokens == 5
    assert one.logprobs is not None
    assert end not in [scored.token for scored in one.logprobs]


def test_ignore_eos_goes_on_after_the_models_end_token(llava: Lvlm) -> None:
    bias = ((min(llava.end_tokens), 100.0),)
    ended = answer(llava, replace(END, logit_bias=bias))
    assert (ended.finish_reason, ended.completion_tokens) == ("stop", 1)
    on = answer(llava, replace(END, logit_bias=bias, ignore_eos=True, logprobs=0))
    assert (on.finish_reason, on.completion_tokens) == ("length", 5)
    assert on.logprobs is not None
    assert {one.token for one in on.logprobs} == {min(llava.end_tokens)}


OPTIONS = [
    Decoding(max_new_tokens=7, temperature=1.3, seed=-5),
    Decoding(max_new_tokens=7, temperature=1.3, seed=2, top_p=0.8, top_k=9, min_p=0.02, logprobs=2),
    Decoding(max_new_tokens=7, repetition_penalty=1.4),
    Decoding(max_new_tokens=7, presence_penalty=1.5, frequency_penalty=0.5, temperature=0.7),
    Decoding(max_new_tokens=7, logit_bias=((9, 6.0),), min_new_tokens=7),
    Decoding(max_new_tokens=7, ignore_eos=True, top_p=0.0, temperature=1.0),
    Decoding(max_new_tokens=0),
]


def test_every_option_in_a_batch_answers_as_alone_and_as_generate_does(llava: Lvlm) -> None:
    def requests() -> list[RecordedRequest]:
        return [
            RecordedRequest(llava, PROMPTS[place % 4], vector(llava.spec, 1 + place % 2), one)
            for place, one in enumerate(OPTIONS)
        ]

    together = answered(llava, *requests())
    for got, one in zip(together, requests(), strict=True):
        (alone,) = answered(llava, one)
        by_generate = answer_statically(llava, one.request.prompt.prompt, one.request.vector, one.request.decoding)
        bare, *references = (replace(each, logprobs=None) for each in (got, alone, by_generate))
        assert references == [bare, bare]
        if one.request.decoding.logprobs is not None:
            assert_close(got.logprobs, alone.logprobs)
            assert_close(got.logprobs, by_generate.logprobs)


def test_a_token_id_that_the_model_does_not_have_ends_only_its_request(llava: Lvlm) -> None:
    wrong = RecordedRequest(llava, PROMPTS[1], None, Decoding(stop_token_ids=(llava.vocabulary,)))
    fine = RecordedRequest(llava, PROMPTS[2], None, Decoding(max_new_tokens=3))
    run(InFlightEngine(llava), [wrong, fine], steps_between=0)
    assert [type(event) for event in wrong.events] == [InvalidInput]
    assert fine.generation.completion_tokens == 3
