"""In flight as alone: whoever joins, leaves or runs beside it, a request's answer is its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from tests.model import tiny
from tests.model.samples import Mixed, noise_image, prompts
from vlibrary.domain.errors import InvalidQuery, UnsupportedModel
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding, Generation, Prompt, TextPiece
from vlibrary.engine.inflight import Budget, InFlightEngine
from vlibrary.engine.request import Event, Request, encode_prompt
from vlibrary.engine.self_check import check_decoder
from vlibrary.engine.static import StaticGenerator
from vlibrary.models.lvlm import Lvlm

LENGTHS = (9, 3, 6, 12)


class Collected:
    """What one request emitted."""

    def __init__(self, lvlm: Lvlm, prompt: Prompt, vector: SteeringVector | None, decoding: Decoding) -> None:
        self.events: list[Event] = []
        encoded = encode_prompt(lvlm, prompt, decoding.max_new_tokens)
        self.request = Request(encoded, decoding, self.events.append, vector)

    @property
    def generation(self) -> Generation:
        last = self.events[-1]
        assert isinstance(last, Generation), last
        assert "".join(piece.text for piece in self.events if isinstance(piece, TextPiece)) == last.text
        return replace(last, timings={})


def static(lvlm: Lvlm, prompt: Prompt, vector: SteeringVector | None, decoding: Decoding) -> Generation:
    (generation,) = StaticGenerator(lvlm).generate([(prompt, vector)], decoding)
    return replace(generation, timings={})


def test_requests_that_come_and_go_at_different_times_answer_as_alone(lvlm: Lvlm) -> None:
    engine = InFlightEngine(lvlm, Budget(rows=3))
    asked = [
        (prompt, vector, Decoding(max_new_tokens=length))
        for prompt, vector, length in zip(prompts(lvlm) * 2, Mixed(lvlm).vectors * 2, LENGTHS * 2, strict=True)
    ]
    requests = [Collected(lvlm, *one) for one in asked]
    run(engine, requests, steps_between=2)
    assert [one.generation for one in requests] == [static(lvlm, *one) for one in asked]


def run(engine: InFlightEngine, requests: Sequence[Collected], *, steps_between: int) -> None:
    """Submit the requests one after another, some steps apart, and go on to the end."""
    for one in requests:
        engine.submit(one.request)
        for _ in range(steps_between):
            engine.step()
    while engine.load().running or engine.load().waiting:
        engine.step()


def test_the_logits_in_flight_are_those_of_a_solo_run(lvlm: Lvlm) -> None:
    def record(requests: Sequence[Collected], steps_between: int) -> dict[Request, list[Tensor]]:
        engine, seen = InFlightEngine(lvlm), defaultdict[Request, list[Tensor]](list)

        def note(_model: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if kwargs["input_ids"].shape[1] == 1:  # a decode step: the rows are those of the batch
                for request, logits in zip(engine.running, output.logits[:, -1], strict=True):
                    seen[request].append(logits)

        handle = lvlm.model.register_forward_hook(note, with_kwargs=True)
        try:
            run(engine, requests, steps_between=steps_between)
        finally:
            handle.remove()
        return seen

    def requests() -> list[Collected]:
        return [
            Collected(lvlm, prompt, vector, Decoding(max_new_tokens=length))
            for prompt, vector, length in zip(prompts(lvlm), Mixed(lvlm).vectors, LENGTHS, strict=True)
        ]

    mixed = requests()
    together = record(mixed, steps_between=1)
    for one, again in zip(mixed, requests(), strict=True):
        alone = record([again], steps_between=0)[again.request]
        assert len(alone) == len(together[one.request]) > 0
        for got, wanted in zip(together[one.request], alone, strict=True):
            assert (got - wanted).abs().max() <= 1e-4


def test_newcomers_are_prefilled_together(lvlm: Lvlm) -> None:
    asked = [
        (one, vector, Decoding(max_new_tokens=4))
        for one, vector in zip(prompts(lvlm), Mixed(lvlm).vectors, strict=True)
    ]
    requests = [Collected(lvlm, *one) for one in asked]
    passes = []
    handle = lvlm.model.register_forward_pre_hook(
        lambda _model, _args, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        engine = InFlightEngine(lvlm)
        run(engine, requests, steps_between=0)
    finally:
        handle.remove()
    if engine.decoder.max_rows is None:
        assert passes[0] == (4, max(one.request.prompt.length for one in requests))
    assert [one.generation for one in requests] == [static(lvlm, *one) for one in asked]


def test_a_prompt_with_more_pictures_than_places_is_refused_before_it_reaches_the_model(tmp_path: Path) -> None:
    config, processor = tiny.llava()
    processor.chat_template = processor.chat_template.replace("'<image>'", "'<image>' if loop.first else ''")
    lvlm = Lvlm.load(tiny.save(config, processor, tmp_path))
    encode_prompt(lvlm, Prompt("Which?", (noise_image(0),)), max_new_tokens=3)
    with pytest.raises(InvalidQuery, match="1 <image> tokens and 2 images"):
        encode_prompt(lvlm, Prompt("Which?", (noise_image(0), noise_image(1))), max_new_tokens=3)


def test_a_decoder_is_shown_to_compute_what_the_model_does(lvlm: Lvlm) -> None:
    check_decoder(lvlm, InFlightEngine(lvlm).decoder)


def test_a_model_that_keeps_more_than_the_decoder_knows_is_refused_at_start(tmp_path: Path) -> None:
    lvlm = Lvlm.load(tiny.save(*tiny.llava(), tmp_path))
    tokens_seen = 0

    def remember(_module: Any, args: Any, kwargs: Any) -> Any:
        """A state of the model's own, which two forward passes of two decoders would share."""
        nonlocal tokens_seen
        kwargs["inputs_embeds"] = kwargs["inputs_embeds"] + 0.1 * tokens_seen
        tokens_seen += kwargs["inputs_embeds"].shape[1]
        return args, kwargs

    lvlm.model.get_decoder().register_forward_pre_hook(remember, with_kwargs=True)
    with pytest.raises(UnsupportedModel, match="differ from those of generate"):
        check_decoder(lvlm, InFlightEngine(lvlm).decoder)
