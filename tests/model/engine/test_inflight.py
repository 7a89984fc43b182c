"""A request has the same answer in a running batch as in a single run, whatever joins or leaves."""

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


class RecordedRequest:
    """A request and the events that it emitted."""

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


def answer_statically(lvlm: Lvlm, prompt: Prompt, vector: SteeringVector | None, decoding: Decoding) -> Generation:
    (generation,) = StaticGenerator(lvlm).generate([(prompt, vector)], decoding)
    return replace(generation, timings={})


def test_requests_that_join_and_leave_have_the_answers_of_single_runs(lvlm: Lvlm) -> None:
    engine = InFlightEngine(lvlm, Budget(rows=3))
    inputs = [
        (prompt, vector, Decoding(max_new_tokens=length))
        for prompt, vector, length in zip(prompts(lvlm) * 2, Mixed(lvlm).vectors * 2, LENGTHS * 2, strict=True)
    ]
    requests = [RecordedRequest(lvlm, *one) for one in inputs]
    run(engine, requests, steps_between=2)
    assert [one.generation for one in requests] == [answer_statically(lvlm, *one) for one in inputs]


def run(engine: InFlightEngine, requests: Sequence[RecordedRequest], *, steps_between: int) -> None:
    """Submit the requests one after another, with some steps between, and run to the end."""
    for one in requests:
        engine.submit(one.request)
        for _ in range(steps_between):
            engine.step()
    while engine.load().running or engine.load().waiting:
        engine.step()


def test_logits_in_a_running_batch_are_those_of_a_single_run(lvlm: Lvlm) -> None:
    def record(requests: Sequence[RecordedRequest], steps_between: int) -> dict[Request, list[Tensor]]:
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

    def requests() -> list[RecordedRequest]:
        return [
            RecordedRequest(lvlm, prompt, vector, Decoding(max_new_tokens=length))
            for prompt, vector, length in zip(prompts(lvlm), Mixed(lvlm).vectors, LENGTHS, strict=True)
        ]

    mixed = requests()
    together = record(mixed, steps_between=1)
    for one, again in zip(mixed, requests(), strict=True):
        alone = record([again], steps_between=0)[again.request]
        assert len(alone) == len(together[one.request]) > 0
        for got, expected in zip(together[one.request], alone, strict=True):
            assert (got - expected).abs().max() <= 1e-4


def test_new_requests_are_prefilled_together(lvlm: Lvlm) -> None:
    inputs = [
        (one, vector, Decoding(max_new_tokens=4))
        for one, vector in zip(prompts(lvlm), Mixed(lvlm).vectors, strict=True)
    ]
    requests = [RecordedRequest(lvlm, *one) for one in inputs]
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
    assert [one.generation for one in requests] == [answer_statically(lvlm, *one) for one in inputs]


def test_a_prompt_with_more_images_than_image_tokens_is_refused(tmp_path: Path) -> None:
    config, processor = tiny.llava()
    processor.chat_template = processor.chat_template.replace("'<image>'", "'<image>' if loop.first else ''")
    lvlm = Lvlm.load(tiny.save(config, processor, tmp_path))
    encode_prompt(lvlm, Prompt("Which?", (noise_image(0),)), max_new_tokens=3)
    with pytest.raises(InvalidQuery, match="1 <image> tokens and 2 images"):
        encode_prompt(lvlm, Prompt("Which?", (noise_image(0), noise_image(1))), max_new_tokens=3)


def test_the_self_check_accepts_every_supported_model(lvlm: Lvlm) -> None:
    check_decoder(lvlm, InFlightEngine(lvlm).decoder)


def test_the_self_check_refuses_a_model_with_hidden_state(tmp_path: Path) -> None:
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
