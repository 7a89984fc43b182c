"""The contract of Inference, for workers in memory, with real models, over HTTP and in a fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MemoryWorker
from tests.support.samples import png, vector
from tests.support.worker_server import serving, until
from vlibrary.adapters.workers.fleet import Fleet
from vlibrary.adapters.workers.http_worker import HttpWorker
from vlibrary.bundled import EMBEDDER_FOLDER, LVLM_FOLDER, LVLM_ID
from vlibrary.domain.errors import (
    ArtifactLost,
    InvalidImage,
    ModelNotFound,
    PromptTooLong,
    UnsupportedEdit,
    VLibraryError,
    WrongModel,
)
from vlibrary.domain.ports.inference import Inference, Worker
from vlibrary.domain.query import Query
from vlibrary.domain.vector import ModelSpec, NormRule, SteeringVector
from vlibrary.domain.wire import (
    ArtifactAtStrength,
    Decoding,
    Demonstration,
    GenerateCall,
    Generation,
    Prompt,
    TextPiece,
)
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.formats.artifact import encode, sha256_of
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.worker.local import LocalWorker

Event = TextPiece | Generation


@dataclass(frozen=True)
class Case:
    """inference: the object under test. far: the workers behind it. store: their artifact store."""

    inference: Inference
    far: tuple[Worker, ...]
    store: MemoryArtifacts

    @property
    def model(self) -> ModelSpec:
        return self.inference.models()[0].model

    def call(self, text: str = "one two three", **more: object) -> GenerateCall:
        return replace(GenerateCall(Prompt(text), self.model.model_id), **more)  # type: ignore[arg-type]  # any field

    def stored(self, of: SteeringVector, strength: float = 1.0) -> ArtifactAtStrength:
        data = encode(of)
        digest = sha256_of(data)
        key = f"v/{digest}.safetensors"
        self.store.put(key, data, digest)
        return ArtifactAtStrength("v", key, digest, strength)


@pytest.fixture(scope="session")
def real_worker() -> Iterator[tuple[LocalWorker, MemoryArtifacts]]:
    store = MemoryArtifacts()
    lvlm = Lvlm.load(LVLM_FOLDER, device="cpu", dtype="float32", model_id=LVLM_ID, slots=8)
    embedder = Embedder.load(EMBEDDER_FOLDER, device="cpu")
    worker = LocalWorker(lvlm, embedder, store, InFlightEngine(lvlm).start(), max_requests=80)
    yield worker, store
    worker.close()


@pytest.fixture(params=["memory", "real", "http", "fleet"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    with ExitStack() as stack:
        yield _case(request.param, request, stack)


def _case(kind: str, request: pytest.FixtureRequest, stack: ExitStack) -> Case:
    if kind == "real":
        real, store = request.getfixturevalue("real_worker")
        return Case(real, (real,), store)
    store = MemoryArtifacts()
    far = tuple(MemoryWorker(store, pause_s=0.01) for _ in range(2 if kind == "fleet" else 1))
    if kind == "memory":
        return Case(far[0], far, store)
    urls = [stack.enter_context(serving(worker, token="secret token")) for worker in far]
    near = {url: HttpWorker(url, "secret token") for url in urls}
    if kind == "http":
        stack.callback(near[urls[0]].close)
        return Case(near[urls[0]], far, store)
    fleet = Fleet(near, heartbeat_s=0.05)
    stack.callback(fleet.close)
    fleet.wait(10)
    return Case(fleet, far, store)


def events_of(worker: Inference, call: GenerateCall) -> list[Event]:
    async def collect() -> list[Event]:
        return [event async for event in worker.generate(call)]

    return asyncio.run(collect())


def error_from(worker: Inference, call: GenerateCall) -> VLibraryError:
    with pytest.raises(VLibraryError) as caught:
        events_of(worker, call)
    return caught.value


def test_pieces_join_to_the_text_and_the_generation_comes_last(case: Case) -> None:
    decoding = Decoding(max_new_tokens=6)
    *pieces, whole = events_of(case.inference, case.call("Which colour is it?", decoding=decoding))
    assert isinstance(whole, Generation)
    texts = [piece.text for piece in pieces if isinstance(piece, TextPiece)]
    assert len(texts) == len(pieces)
    assert all(texts)
    assert "".join(texts) == whole.text
    drawn = [piece.tokens for piece in pieces if isinstance(piece, TextPiece)]
    assert drawn == sorted(drawn)
    assert drawn[-1] <= whole.completion_tokens
    assert whole.finish_reason in ("stop", "length")
    assert whole.prompt_tokens > 0


@pytest.mark.parametrize("count", [0, 20])
def test_logprobs_come_if_requested_and_only_then(case: Case, count: int) -> None:
    asked = Decoding(max_new_tokens=6, logprobs=count, prompt_logprobs=count)
    *pieces, whole = events_of(case.inference, case.call("Which colour is it?", decoding=asked))
    assert isinstance(whole, Generation)
    assert whole.logprobs
    assert whole.prompt_logprobs
    assert len(whole.prompt_logprobs) == whole.prompt_tokens
    assert {len(one.top) for one in whole.logprobs} == {count}
    streamed = [one for piece in pieces if isinstance(piece, TextPiece) for one in piece.logprobs]
    assert tuple(streamed) == whole.logprobs[: len(streamed)]
    *others, plain = events_of(case.inference, case.call("Which colour is it?", decoding=Decoding(max_new_tokens=6)))
    assert isinstance(plain, Generation)
    assert plain.text == whole.text
    assert (plain.logprobs, plain.prompt_logprobs) == (None, None)
    assert all(piece.logprobs == () for piece in others if isinstance(piece, TextPiece))


def test_any_text_is_transmitted_exactly(case: Case) -> None:
    call = case.call("line\u2028separator, next\x85line, feed\nand 😀")
    near, far = events_of(case.inference, call)[-1], events_of(case.far[0], call)[-1]
    assert isinstance(near, Generation)
    assert isinstance(far, Generation)
    assert near.text == far.text


def test_a_stored_vector_is_applied_at_its_strength(case: Case) -> None:
    applied = case.stored(vector(case.model))
    plain, none, half = (
        events_of(case.inference, case.call("Say something.", vectors=vectors))[-1]
        for vectors in ((), (replace(applied, strength=0.0),), (replace(applied, strength=40.0),))
    )
    assert isinstance(plain, Generation)
    assert isinstance(none, Generation)
    assert isinstance(half, Generation)
    assert plain.text != half.text
    assert none.text.startswith(plain.text)


def test_images_and_demonstrations_reach_the_model(case: Case) -> None:
    prompt = Prompt("and this?", (png(),), (Demonstration("what is it?", (png((0, 0, 250)),), "blue"),))
    whole = events_of(case.inference, case.call(prompt=prompt))[-1]
    bare = events_of(case.inference, case.call(prompt=Prompt("and this?")))[-1]
    assert isinstance(whole, Generation)
    assert isinstance(bare, Generation)
    assert whole.prompt_tokens > bare.prompt_tokens


ELSEWHERE = ModelSpec("tests/other", "f" * 64, "Other", layers=2, hidden_size=4)
BAD_CALLS: dict[str, tuple[type[VLibraryError], Callable[[Case], GenerateCall]]] = {
    "an unknown model": (ModelNotFound, lambda case: case.call(model_id="unknown/model")),
    "an extreme aspect ratio": (InvalidImage, lambda case: case.call(prompt=Prompt("what?", (png(size=(300, 2)),)))),
    "too long": (PromptTooLong, lambda case: case.call(prompt=Prompt("what? " * 5_000))),
    "a lost artifact": (ArtifactLost, lambda case: case.call(vectors=(ArtifactAtStrength("v", "v/gone", "0" * 64),))),
    "a foreign vector": (WrongModel, lambda case: case.call(vectors=(case.stored(vector(ELSEWHERE)),))),
}


@pytest.mark.parametrize("bad", BAD_CALLS)
def test_an_error_keeps_its_class_detail_and_cure(case: Case, bad: str) -> None:
    kind, make = BAD_CALLS[bad]
    call = make(case)
    near, far = (error_from(one, call) for one in (case.inference, case.far[0]))
    assert type(near) is type(far) is kind
    assert near.detail
    assert near.cure
    assert (near.detail, near.cure) == (far.detail, far.cure)


def test_closing_early_frees_the_request_s_resources(case: Case) -> None:
    async def leave() -> None:
        call = case.call("word " * 200, decoding=Decoding(max_new_tokens=64))
        async with aclosing(case.inference.generate(call)) as events:
            await anext(events)

    asyncio.run(leave())
    until(lambda: all(worker.status().running == 0 for worker in case.far), seconds=1.0)


def test_concurrent_requests_get_their_own_answers(case: Case) -> None:
    async def one(text: str) -> str:
        whole = [event async for event in case.inference.generate(case.call(text))][-1]
        assert isinstance(whole, Generation)
        return whole.text

    async def together(texts: list[str]) -> list[str]:
        return await asyncio.gather(*map(one, texts))

    texts = [f"Question {number}?" for number in range(8)]
    assert asyncio.run(together(texts)) == [asyncio.run(one(text)) for text in texts]


QUERIES = [Query("red shapes"), Query(images=(png(),)), Query("both", (png(), png((1, 2, 250))))]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.modality)
def test_an_embedding_is_transmitted_bit_for_bit(case: Case, query: Query) -> None:
    near, far = case.inference.embed(query), case.far[0].embed(query)
    assert (near.text_tokens, near.text_limit) == (far.text_tokens, far.text_limit)
    assert near.text_cut is False
    for mine, theirs in ((near.image, far.image), (near.text, far.text)):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert mine.dtype == np.float32
            assert np.array_equal(mine, theirs)
            assert float(np.linalg.norm(mine)) == pytest.approx(1.0, abs=1e-5)


def test_an_invalid_image_cannot_be_embedded(case: Case) -> None:
    with pytest.raises(InvalidImage):
        case.inference.embed(Query(images=(b"no picture",)))


def test_check_accepts_only_vectors_that_generate_could_apply(case: Case) -> None:
    case.inference.check(vector(case.model))
    with pytest.raises(WrongModel):
        case.inference.check(vector(ELSEWHERE))
    fits = vector(case.model)
    ruled = replace(fits, norm=NormRule.PRESERVE)
    with pytest.raises(UnsupportedEdit):
        case.inference.check(ruled)


def test_models_lists_each_model_once(case: Case) -> None:
    infos = case.inference.models()
    assert [info.model for info in infos] == [case.far[0].models()[0].model]
    assert infos[0] == case.far[0].models()[0]
