"""The static engine: rows do not affect each other, and its reports are correct."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.model.samples import PROMPTS, Mixed, prompts, vector
from vlibrary.domain.errors import InvalidImage, PromptTooLong, VLibraryError, WrongModel
from vlibrary.domain.vector import Edit, Site, SteeringVector
from vlibrary.domain.wire import Decoding, Generation, Prompt
from vlibrary.engine.static import Call, StaticGenerator
from vlibrary.models.lvlm import Lvlm

GREEDY = Decoding(max_new_tokens=6)


def without_timings(generation: Generation) -> Generation:
    """Return the generation without its timings."""
    return replace(generation, timings={})


def mixed(lvlm: Lvlm) -> list[Call]:
    return list(zip(prompts(lvlm), Mixed(lvlm).vectors, strict=True))


def end_token_vector(lvlm: Lvlm) -> SteeringVector:
    """Return a vector that ends the answer at once: the last MLP outputs the end token's row of the output matrix."""
    readout = lvlm.model.get_output_embeddings().weight[lvlm.model.generation_config.eos_token_id[0]]
    shift = np.zeros((lvlm.spec.layers, lvlm.spec.hidden_size), np.float32)
    shift[-1] = readout.cpu().numpy()
    scale = np.full(lvlm.spec.layers, 1e4, np.float32)
    return SteeringVector(lvlm.spec, {Site.MLP: Edit(shift, scale)}, "m2iv")


def test_each_row_of_a_mixed_batch_has_the_answer_of_a_single_run(lvlm: Lvlm) -> None:
    engine, calls = StaticGenerator(lvlm), mixed(lvlm)
    together = engine.generate(calls, GREEDY)
    assert [without_timings(one) for one in together] == [
        without_timings(engine.generate([call], GREEDY)[0]) for call in calls
    ]


def test_only_rows_with_a_vector_change_their_answer(llava: Lvlm) -> None:
    engine, calls = StaticGenerator(llava), mixed(llava)
    plain = [one.text for one in engine.generate([(prompt, None) for prompt in PROMPTS], GREEDY)]
    changed = [one.text != before for one, before in zip(engine.generate(calls, GREEDY), plain, strict=True)]
    assert changed == [True, False, True, True]


def test_an_answer_reports_tokens_timings_and_finish_reason(lvlm: Lvlm) -> None:
    engine, given = StaticGenerator(lvlm), prompts(lvlm)
    stopped, ran_on = engine.generate(
        [(given[0], end_token_vector(lvlm)), (given[2], end_token_vector(lvlm) * -1)], GREEDY
    )
    assert (stopped.text, stopped.completion_tokens, stopped.finish_reason) == ("", 1, "stop")
    assert (ran_on.completion_tokens, ran_on.finish_reason) == (6, "length")
    assert stopped.prompt_tokens == lvlm.encode(given[:1]).prompt_tokens[0]
    assert 0 < ran_on.timings["prefill_s"] <= ran_on.timings["total_s"]


def test_an_end_token_in_the_last_place_counts_as_stop(llava: Lvlm) -> None:
    (only,) = StaticGenerator(llava).generate([(PROMPTS[1], end_token_vector(llava))], Decoding(max_new_tokens=1))
    assert (only.completion_tokens, only.finish_reason) == (1, "stop")


def test_sampling_depends_only_on_the_seed(llava: Lvlm) -> None:
    engine, calls = StaticGenerator(llava), mixed(llava)
    torch.manual_seed(5)
    outside = torch.rand(3)
    torch.manual_seed(5)

    def texts(seed: int) -> list[str]:
        decoding = Decoding(max_new_tokens=6, temperature=2.0, top_p=0.95, seed=seed)
        return [one.text for one in engine.generate(calls, decoding)]

    assert texts(1) == texts(1) != texts(2)
    assert torch.equal(torch.rand(3), outside)  # torch's global generator is not used


def test_sampling_can_draw_any_token(llava: Lvlm) -> None:
    """transformers keeps only the 50 most likely tokens by default."""
    decoding = Decoding(max_new_tokens=64, temperature=1e6)
    (wild,) = StaticGenerator(llava).generate([(PROMPTS[1], None)], decoding)
    with torch.no_grad():
        first = llava.model(**llava.encode(PROMPTS[1:2]).inputs).logits[0, -1]
    assert len(set(wild.text)) > 30
    assert first.numel() > 50


def test_settings_shipped_with_a_model_do_not_reach_requests(llava: Lvlm) -> None:
    settings = llava.model.generation_config
    kept = settings.to_diff_dict()
    assert set(kept) <= {"eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ((Prompt("?", (b"nothing",)), None), InvalidImage),
        ((Prompt("word " * 600), None), PromptTooLong),
    ],
)
def test_a_refused_call_leaves_the_engine_ready(llava: Lvlm, bad: Call, error: type[VLibraryError]) -> None:
    engine, calls = StaticGenerator(llava), mixed(llava)
    before = [without_timings(one) for one in engine.generate(calls, GREEDY)]
    with pytest.raises(error):
        engine.generate([*calls, bad], GREEDY)
    assert [without_timings(one) for one in engine.generate(calls, GREEDY)] == before


def test_a_vector_for_another_model_is_refused(llava: Lvlm) -> None:
    other = vector(replace(llava.spec, fingerprint="0" * 64), 1)
    with pytest.raises(WrongModel):
        StaticGenerator(llava).generate([(PROMPTS[0], None), (PROMPTS[1], other)], GREEDY)


def test_slots_are_reused_for_more_vectors_than_there_are_slots(llava: Lvlm) -> None:
    small = Lvlm(llava.model, llava.processor, model_id="small", slots=2)
    try:
        engine = StaticGenerator(small)
        texts = [engine.generate([(PROMPTS[2], vector(small.spec, seed))], GREEDY)[0].text for seed in (1, 2, 3, 4, 1)]
    finally:
        small.injector.close()
    assert texts[0] == texts[-1]
    assert len(set(texts)) == 4


def test_concurrent_threads_get_their_own_answers(llava: Lvlm) -> None:
    engine, calls = StaticGenerator(llava), mixed(llava) * 3
    alone = [without_timings(engine.generate([call], GREEDY)[0]) for call in calls]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda call: without_timings(engine.generate([call], GREEDY)[0]), calls))
    assert together == alone


def test_an_empty_batch_has_no_answers(llava: Lvlm) -> None:
    assert StaticGenerator(llava).generate([], GREEDY) == []
