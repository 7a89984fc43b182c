"""Values that the API and its workers exchange; vlibrary.formats.messages converts them to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlibrary.domain.query import EmbedderSpec
from vlibrary.domain.vector import ModelSpec


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker serves: one LVLM and the query embedder.

    context_length: the most tokens of a prompt and its answer.
    """

    model: ModelSpec
    embedder: EmbedderSpec
    context_length: int


@dataclass(frozen=True)
class WorkerStatus:
    """A worker's heartbeat. running, waiting: numbers of requests. room: how many more it accepts.

    leaving: it is shutting down: it finishes running requests and accepts no new ones.
    """

    info: WorkerInfo
    running: int
    waiting: int
    room: int
    leaving: bool = False


@dataclass(frozen=True)
class Decoding:
    """Decoding parameters; the defaults are greedy decoding without anything else.

    A token is chosen from the model's logits in vLLM's order: end tokens are masked before `min_new_tokens`; logit_bias
    is added; the penalties apply; then temperature, min_p, top_k and top_p, each to what the one before it left.

    max_new_tokens: the worker lowers it to what the prompt leaves of the context; the answer then ends with "length".
        0 reads the prompt only, for its log-probabilities.
    temperature, top_p: 0 takes the most likely token, as top_k = 1 does; the seed then has no effect.
    top_k: the number of tokens to choose from; 0 is all. min_p: the least probability relative to the highest.
    repetition_penalty: divides positive logits of tokens of the prompt and the answer, and multiplies negative ones.
    presence_penalty, frequency_penalty: subtracted once, and per occurrence, from the logits of the answer's tokens.
    logit_bias: pairs of a token id and a number that is added to its logit.
    seed: any signed integer of 64 bits.
    stop: the answer ends before the first occurrence of one of these texts.
    stop_token_ids: tokens that end the answer as the model's end tokens do. ignore_eos: the model's own do not.
    min_new_tokens: before so many tokens no end token can be chosen.
    logprobs, prompt_logprobs: how many of the most likely tokens to report at each place of the answer or the prompt,
        besides the token there; 0 to 20, None reports nothing.
    json_schema: a JSON schema as JSON; only tokens that continue a document of this schema can be chosen, and the
        answer ends with the document or with "length". Not with ignore_eos, min_new_tokens or stop_token_ids.
    """

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_new_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    json_schema: str | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, without chance."""
        return self.temperature == 0 or self.top_p == 0 or self.top_k == 1


@dataclass(frozen=True)
class ScoredToken:
    """A token of an answer or a prompt with its log-probability.

    token: its id. data: its bytes, which may be a part of a character; a control token has none.
    logprob: the natural logarithm of its probability in the model's distribution, as the vectors steer it, before
        temperature, penalties and masks (as in vLLM); None for the first token of a prompt.
    top: the most likely tokens at its place, the most likely first.
    """

    token: int
    data: bytes
    logprob: float | None
    top: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class Demonstration:
    """One solved example shown in the prompt before the question.

    Without text and images, it is an assistant's message that answers no question.
    """

    prompt: str
    images: tuple[bytes, ...]
    answer: str


@dataclass(frozen=True)
class Prompt:
    """A user's prompt: demonstrations, then images, then text. Without both, the last answer is followed by another.

    verbatim: the model continues the text as it is, without its chat template; there are no images and no
        demonstrations, and white space at the ends of the answer belongs to it.
    tokens: the token ids of a verbatim prompt, given instead of its text.
    """

    text: str
    images: tuple[bytes, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()
    verbatim: bool = False
    tokens: tuple[int, ...] = ()

    @property
    def every_image(self) -> tuple[bytes, ...]:
        """All images, in the order in which the model sees them."""
        shown = (image for one in self.demonstrations for image in one.images)
        return (*shown, *self.images)


@dataclass(frozen=True)
class ArtifactAtStrength:
    """A vector to apply: its artifact's key and digest, and the strength."""

    vector_id: str
    object_key: str
    sha256: str
    strength: float = 1.0


@dataclass(frozen=True)
class GenerateCall:
    """A request to a worker; several vectors are applied as their sum.

    model_id: the base model's name. timeout_s: the time limit for the whole answer.
    """

    prompt: Prompt
    model_id: str
    vectors: tuple[ArtifactAtStrength, ...] = ()
    decoding: Decoding = Decoding()
    timeout_s: float | None = None


@dataclass(frozen=True)
class TextPiece:
    """The next, non-empty part of an answer. tokens: the number of tokens generated so far.

    prompt_tokens: the length of the prompt.
    logprobs: of the tokens generated since the last piece, if requested; text that is held back comes in a later piece.
    """

    text: str
    tokens: int
    logprobs: tuple[ScoredToken, ...] = ()
    prompt_tokens: int = 0


@dataclass(frozen=True)
class Generation:
    """A complete answer. text: all pieces joined.

    finish_reason: "stop" (end of turn or a stop text) or "length".
    timings: seconds per stage: queue_s (preparation and waiting), prefill_s (to the first token), decode_s, total_s.
    logprobs: one entry per generated token except an end token, those of a stop text included; None if not requested.
    prompt_logprobs: one entry per prompt token, template and image tokens included; None if not requested.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    timings: Mapping[str, Any] = field(default_factory=dict)
    logprobs: tuple[ScoredToken, ...] | None = None
    prompt_logprobs: tuple[ScoredToken, ...] | None = None
