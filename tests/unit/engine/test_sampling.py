"""Each row is sampled with its own options and seed, whatever the other rows are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vlibrary.domain.errors import InvalidInput
from vlibrary.domain.wire import Decoding
from vlibrary.engine.sampling import Sampler, adjust_logits, next_tokens

VOCABULARY = 11
GREEDY = Decoding()


def some_logits(rows: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def drawn(logits: Tensor, decoding: Decoding, times: int) -> Counter[int | None]:
    """Count the tokens of repeated draws for one row."""
    sampler = Sampler(decoding)
    return Counter(draw(logits[None], [sampler])[0] for _ in range(times))


def draw(logits: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """Draw a token for every row and advance the samplers."""
    tokens = next_tokens(logits, samplers)
    for sampler, token in zip(samplers, tokens, strict=True):
        assert token is not None
        sampler.advance(token)
    return tokens


@given(st.lists(st.booleans(), min_size=1, max_size=5), st.integers(0, 99))
def test_greedy_rows_take_the_most_likely_token_next_to_sampled_rows(sampling: list[bool], seed: int) -> None:
    logits = some_logits(len(sampling), seed)
    tokens = next_tokens(logits, [Sampler(Decoding(temperature=1.0 if one else 0.0)) for one in sampling])
    best = logits.argmax(dim=-1).tolist()
    assert [token for token, one in zip(tokens, sampling, strict=True) if not one] == [
        token for token, one in zip(best, sampling, strict=True) if not one
    ]


@settings(max_examples=30)
@given(
    st.builds(Decoding, temperature=st.floats(0.1, 3), top_p=st.floats(0.05, 1), seed=st.integers(0, 2**31)),
    st.lists(st.builds(Decoding, temperature=st.sampled_from((0.0, 0.7, 2.0)), seed=st.integers(0, 9)), max_size=4),
    st.integers(0, 4),
)
def test_the_same_seed_draws_the_same_tokens_whatever_the_batch(
    decoding: Decoding, neighbours: list[Decoding], place: int
) -> None:
    alone, place = Sampler(decoding), min(place, len(neighbours))
    together = [Sampler(one) for one in (*neighbours[:place], decoding, *neighbours[place:])]
    for step in range(6):
        logits = some_logits(len(together), seed=step)
        assert draw(logits, together)[place] == draw(logits[place][None], [alone])[0]


def test_different_seeds_draw_different_tokens() -> None:
    logits = torch.zeros(VOCABULARY)
    one, two = (
        [draw(logits[None], [sampler]) for _ in range(20)]
        for sampler in (Sampler(Decoding(temperature=1.0, seed=seed)) for seed in (1, 2))
    )
    assert one != two


# Each exact in binary, so that the sums are too.
HALVES = torch.tensor([0.125, 0.5, 0.0625, 0.25, 0.0625]).log()


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (0.3, {1}),
        (0.5, {1}),
        (0.51, {1, 3}),
        (0.75, {1, 3}),
        (0.76, {1, 3, 0}),
        (1.0, {1, 3, 0, 2, 4}),
    ],
)
def test_top_p_keeps_the_fewest_tokens_that_reach_it(top_p: float, kept: set[int]) -> None:
    logits = HALVES.double()  # the softmax of a float32 logarithm is not exactly 0.5
    assert set(drawn(logits, Decoding(temperature=1.0, top_p=top_p), 400)) == kept


def test_tokens_within_top_p_are_drawn_in_proportion() -> None:
    counts = drawn(HALVES.double(), Decoding(temperature=1.0, top_p=0.75, seed=5), 1500)
    assert counts[1] / counts[3] == pytest.approx(2.0, rel=0.15)


@given(st.integers(0, 999), st.floats(0.1, 5))
def test_a_tiny_top_p_is_greedy(seed: int, temperature: float) -> None:
    logits = some_logits(1, seed)
    tokens = next_tokens(logits, [Sampler(Decoding(temperature=temperature, top_p=1e-9, seed=seed))])
    assert tokens == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_with_the_probabilities_of_the_softmax(temperature: float) -> None:
    logits, times = some_logits(1, seed=3)[0] / 2, 2000
    counts = drawn(logits, Decoding(temperature=temperature, seed=7), times)
    expected = (torch.softmax(logits.double() / temperature, dim=-1) * times).tolist()
    chi_square = sum((counts[token] - often) ** 2 / often for token, often in enumerate(expected) if often > 5)
    assert chi_square < 30  # 10 degrees of freedom: above that once in a thousand
    assert sum(counts.values()) == times


@pytest.mark.parametrize("temperature", [1e-5, 1e-310])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    logits = some_logits(2)
    tokens = next_tokens(logits, [Sampler(Decoding(temperature=temperature)), Sampler(GREEDY)])
    assert tokens == logits.argmax(dim=-1).tolist()


def test_tokens_with_a_logit_of_minus_infinity_are_never_drawn() -> None:
    logits = torch.full((1, VOCABULARY), -math.inf)
    logits[0, 4] = logits[0, 6] = 1.0
    assert set(drawn(logits[0], Decoding(temperature=5.0), 60)) == {4, 6}
    assert next_tokens(logits, [Sampler(GREEDY)]) == [4]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("whole", [True, False], ids=["all numbers", "one number"])
@pytest.mark.parametrize("decoding", [GREEDY, Decoding(temperature=1.0), Decoding(temperature=1.0, top_p=0.5)])
def test_a_row_with_logits_that_are_not_finite_has_no_token(bad: float, whole: bool, decoding: Decoding) -> None:
    logits = some_logits(3)
    others = [GREEDY, Decoding(temperature=1.0, seed=4)]
    fine = next_tokens(logits[[0, 2]], [Sampler(one) for one in others])
    logits[1, slice(None) if whole else 5] = bad
    tokens = next_tokens(logits, [Sampler(others[0]), Sampler(decoding), Sampler(others[1])])
    assert tokens == [fine[0], None, fine[1]]


@pytest.mark.parametrize("top_p", [0.9, 0.999, 1.0])
def test_a_large_and_flat_distribution_is_sampled_beyond_1024_tokens(top_p: float) -> None:
    """The sampler sorts 1,024 tokens first, which hold far less than top_p here."""
    logits = torch.zeros(1, 4_000)
    logits[0, 1_000:] -= 0.01
    tokens = drawn(logits[0], Decoding(temperature=1.0, top_p=top_p), 300)
    assert None not in tokens
    assert len(tokens) > 250
    assert any(token is not None and token >= 1_000 for token in tokens)


def test_top_p_keeps_no_more_equally_likely_tokens_than_needed() -> None:
    found = set(drawn(HALVES.double(), Decoding(temperature=1.0, top_p=0.9), 400))
    assert found in ({0, 1, 3, 2}, {0, 1, 3, 4})


def test_a_repeated_step_draws_the_same_token() -> None:
    logits, sampler = some_logits(1, 0), Sampler(Decoding(temperature=1.5, seed=3))
    assert len({tuple(next_tokens(logits, [sampler])) for _ in range(20)}) == 1


def left_by(logits: Tensor, decoding: Decoding) -> set[int]:
    """Return the tokens that can be drawn, computed in float64: min_p, then top_k, then top_p of what they leave."""
    probabilities = torch.softmax(logits.double() / decoding.temperature, dim=-1)
    order = probabilities.argsort(descending=True).tolist()
    kept = [token for token in order if probabilities[token] >= decoding.min_p * probabilities[order[0]]]
    kept = kept[: decoding.top_k or None]
    total, summed = sum(float(probabilities[token]) for token in kept), 0.0
    nucleus: list[int] = []
    for token in kept:
        if nucleus and summed >= decoding.top_p * total:
            break
        nucleus.append(token)
        summed += float(probabilities[token])
    return set(nucleus)


@settings(max_examples=60)
@given(
    st.builds(
        Decoding,
        temperature=st.floats(0.3, 3),
        top_p=st.sampled_from((0.0, 0.3, 0.77, 0.95, 1.0)),
        top_k=st.integers(0, 12),
        min_p=st.sampled_from((0.0, 0.013, 0.21, 0.9, 1.0)),
    ),
    st.integers(0, 99),
)
def test_only_tokens_within_the_options_are_drawn(decoding: Decoding, seed: int) -> None:
    logits = some_logits(1, seed)[0]
    assert set(drawn(logits, decoding, 60)) <= left_by(logits, decoding)


@pytest.mark.parametrize(
    "decoding",
    [Decoding(temperature=1, top_k=3), Decoding(temperature=1, min_p=0.4), Decoding(temperature=1, top_k=4, top_p=0.9)],
)
def test_all_tokens_within_the_options_are_drawn(decoding: Decoding) -> None:
    logits = some_logits(1, 4)[0] / 3
    assert set(drawn(logits, decoding, 400)) == left_by(logits, decoding)


@pytest.mark.parametrize("options", [{"top_k": 1500}, {"min_p": 0.99}, {"top_k": 1500, "top_p": 0.9}])
def test_options_that_leave_many_tokens_of_a_large_vocabulary(options: dict[str, Any]) -> None:
    """The options keep more than the 1,024 tokens that the sampler sorts first."""
    logits = torch.linspace(0, -0.01, 2_000)
    tokens = drawn(logits, Decoding(temperature=1.0, **options), 400)
    assert max(token or 0 for token in tokens) > 1_024
    assert set(tokens) <= left_by(logits, Decoding(temperature=1.0, **options))


@pytest.mark.parametrize("options", [{"top_p": 0.0}, {"top_k": 1}, {"min_p": 1.0}, {"temperature": 0.0}])
def test_the_narrowest_options_take_the_most_likely_token(options: dict[str, Any]) -> None:
    logits = some_logits(1, 8)
    decoding = Decoding(**({"temperature": 2.0} | options))
    assert set(drawn(logits[0], decoding, 20)) == {int(logits.argmax())}


SEEDS = st.integers(-(2**63), 2**63 - 1)


@given(SEEDS)
def test_every_signed_64_bit_seed_is_repeatable(seed: int) -> None:
    one, again = (Sampler(Decoding(temperature=1.0, seed=seed)) for _ in range(2))
    assert one.point == again.point


@given(st.sets(SEEDS | st.sampled_from((-1, 1, 2**32 + 1, 2**62 + 1, -(2**63))), min_size=2, max_size=6))
def test_different_seeds_draw_different_numbers(seeds: set[int]) -> None:
    assert len({Sampler(Decoding(temperature=1.0, seed=seed)).point for seed in seeds}) == len(seeds)


ADJUSTED = st.builds(
    Decoding,
    temperature=st.sampled_from((0.0, 1.0)),
    repetition_penalty=st.sampled_from((1.0, 1.3)),
    presence_penalty=st.sampled_from((0.0, 1.5, -1.0)),
    frequency_penalty=st.sampled_from((0.0, 0.7)),
    logit_bias=st.sampled_from(((), ((3, 5.0), (4, -100.0)))),
    min_new_tokens=st.integers(0, 3),
    seed=st.integers(0, 9),
)


@given(st.lists(ADJUSTED, min_size=1, max_size=4), st.integers(0, 99))
def test_adjusted_logits_follow_the_formula_in_every_row(options: list[Decoding], seed: int) -> None:
    ends, prompt = {0, 1}, [2, 5, 5]
    samplers = [Sampler(one, end_tokens=ends, prompt=prompt, vocabulary=VOCABULARY) for one in options]
    answers: list[list[int]] = [[] for _ in options]
    for step in range(4):
        logits = some_logits(len(options), seed + step)
        before = logits.clone()
        got = adjust_logits(logits, samplers)
        assert torch.equal(logits, before)
        for row, one in enumerate(options):
            for token in range(VOCABULARY):
                assert float(got[row, token]) == pytest.approx(
                    by_formula(float(logits[row, token]), token, one, prompt, answers[row], ends), abs=1e-5
                )
        for row, drawn_token in enumerate(draw(logits, samplers)):
            answers[row].append(drawn_token or 0)


def by_formula(
    logit: float, token: int, one: Decoding, prompt: Sequence[int], answer: Sequence[int], ends: set[int]
) -> float:
    if len(answer) < one.min_new_tokens and token in ends:
        return -math.inf
    logit += dict(one.logit_bias).get(token, 0.0)
    if token in answer or token in prompt:
        logit = logit / one.repetition_penalty if logit > 0 else logit * one.repetition_penalty
    return logit - one.presence_penalty * (token in answer) - one.frequency_penalty * answer.count(token)


@pytest.mark.parametrize("options", [{"stop_token_ids": (11,)}, {"logit_bias": ((-1, 1.0),)}])
def test_a_token_id_that_the_model_does_not_have_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="which the model does not have") as raised:
        Sampler(Decoding(**options), vocabulary=VOCABULARY)
    assert raised.value.field in options


def test_prompt_tokens_beyond_the_vocabulary_are_not_penalised() -> None:
    logits = some_logits(1, 0)
    sampler = Sampler(Decoding(repetition_penalty=1.5), prompt=[VOCABULARY, 3], vocabulary=VOCABULARY)
    changed = (adjust_logits(logits, [sampler]) != logits).nonzero()[:, 1].tolist()
    assert changed == [3]
