"""Bodies and events of /generate."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from vlibrary.domain.query import Query
from vlibrary.domain.wire import Decoding, Demonstration, Prompt, TextPiece
from vlibrary.library.references import MAX_REFERENCE
from vlibrary.library.steer import (
    Answer,
    AppliedVector,
    Auto,
    ByModelName,
    Listed,
    Off,
    Plan,
    Steering,
    VectorAtStrength,
)
from vlibrary.schemas.examples import NAMED_EXAMPLE, SAMPLE_IMAGE, examples
from vlibrary.schemas.fields import (
    MAX_IMAGES,
    MAX_TEXT,
    EncodedImage,
    JsonSchema,
    LogitBias,
    Logprobs,
    Penalty,
    Seed,
    StopText,
    Strength,
    StrictIn,
    TokenId,
    check_images,
    contradiction,
    reject_other_ends,
)
from vlibrary.schemas.logprobs import LogprobOut
from vlibrary.schemas.vectors import (
    DECISION_EXAMPLE,
    EMBEDDED_TEXT_EXAMPLE,
    DecisionOut,
    EmbeddedTextOut,
    NamedOut,
    ReasonOut,
    identify,
)

MAX_STOPS = 64
MAX_VECTORS = 16
MAX_TIMEOUT_S = 600.0
MAX_MODEL_NAME = 512
TIMINGS = (
    "Seconds: `retrieval_s` (choosing vectors), `queue_s` (preparing the prompt and waiting), `prefill_s` (to the "
    "first token), `decode_s`, and `total_s`"
)
MODEL_NAME = (
    "A served base model, `base:auto` or `base:off`, or a vector: its id, name (its newest version), name:version or "
    "name@alias. By default the first base model; GET /v1/models lists them"
)


class ChosenVector(StrictIn):
    """A vector to apply."""

    id: str = Field(max_length=MAX_REFERENCE, description="Id, name (its newest version), name:version or name@alias")
    strength: Strength = 1.0


class DecodingIn(StrictIn):
    """How tokens are sampled."""

    max_new_tokens: int = Field(
        default=16,
        ge=0,
        lt=2**63,
        description="Maximum length of the answer; lowered to what the prompt leaves of the context. 0 reads the "
        "prompt only, for `prompt_logprobs`",
    )
    temperature: float = Field(default=0.0, ge=0.0, le=10.0, allow_inf_nan=False, description="0 is greedy decoding")
    top_p: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="Sample from the fewest tokens whose probabilities sum up to this; 0 is greedy decoding",
    )
    top_k: int = Field(default=0, ge=-1, description="Sample from this many of the most likely tokens; 0 and -1: all")
    min_p: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="Leave out tokens whose probability is below this share of the highest one",
    )
    seed: Seed = Field(default=0, description="The same seed gives the same answer; matters above temperature 0")
    stop: list[StopText] = Field(
        default_factory=list, max_length=MAX_STOPS, description="The answer ends before the first of these strings"
    )
    stop_token_ids: list[TokenId] = Field(
        default_factory=list, max_length=MAX_STOPS, description="Tokens that end the answer and are not part of it"
    )
    ignore_eos: bool = Field(default=False, description="Continue after the model's end tokens, to max_new_tokens")
    min_new_tokens: int = Field(default=0, ge=0, description="Let no end token come before this many tokens")
    repetition_penalty: float = Field(
        default=1.0,
        gt=0.0,
        le=10.0,
        allow_inf_nan=False,
        description="Above 1: tokens of the prompt and the answer become less likely",
    )
    presence_penalty: Penalty = Field(default=0.0, description="Subtracted from the logits of the answer's tokens")
    frequency_penalty: Penalty = Field(default=0.0, description="The same, once per occurrence")
    logit_bias: LogitBias = Field(default_factory=dict, description="Numbers to add to the logits of these token ids")
    logprobs: Logprobs | None = Field(
        default=None,
        description="Return the log-probability of every token of the answer, and this many of the most likely tokens",
    )
    prompt_logprobs: Logprobs | None = Field(
        default=None, description="The same for the prompt. Takes memory for all tokens of the vocabulary per token"
    )

    json_schema: JsonSchema | None = Field(
        default=None,
        description="A JSON schema; the answer is a JSON document of it, or the beginning of one if it reaches "
        'max_new_tokens. `{"type": "object"}` is any object',
    )

    @model_validator(mode="after")
    def _check(self) -> DecodingIn:
        if self.json_schema is not None:
            reject_other_ends(
                ignore_eos=self.ignore_eos, min_new_tokens=self.min_new_tokens, stop_token_ids=self.stop_token_ids
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise contradiction(
                "min_new_tokens", f"min_new_tokens {self.min_new_tokens} exceeds max_new_tokens {self.max_new_tokens}"
            )
        if self.max_new_tokens == 0 and self.prompt_logprobs is None:
            raise contradiction(
                "max_new_tokens", "max_new_tokens 0 returns nothing without prompt_logprobs; send at least 1"
            )
        return self

    def decoding(self) -> Decoding:
        """Return the settings for the worker."""
        same = self.model_dump(exclude={"stop", "stop_token_ids", "top_k", "logit_bias", "json_schema"})
        return Decoding(
            **same,
            stop=tuple(self.stop),
            stop_token_ids=tuple(self.stop_token_ids),
            top_k=max(self.top_k, 0),
            logit_bias=tuple((int(token), bias) for token, bias in self.logit_bias.items()),
            json_schema=None if self.json_schema is None else json.dumps(self.json_schema),
        )


class DemonstrationIn(StrictIn):
    """A solved example for the prompt, to compare in-context learning with steering."""

    prompt: str = Field(max_length=MAX_TEXT)
    images: list[EncodedImage] = Field(default_factory=list, max_length=MAX_IMAGES)
    answer: str = Field(max_length=MAX_TEXT)


class SteeredIn(StrictIn):
    """How to steer an answer, and how long it may take."""

    steering: Literal["auto", "off"] | Annotated[list[ChosenVector], Field(max_length=MAX_VECTORS)] | None = Field(
        default=None,
        description="`auto`: the best of the vectors that fit prompt and images. `off`: none. "
        "Or a list of vectors to apply together. By default what `model` says: the vector that it names, `auto` or "
        "`off`; `auto` for a base model, unless the service is set to `off`",
    )
    strength: Strength = Field(default=1.0, description="Strength of the vector that `auto` or the model name applies")
    with_demonstrations: bool = Field(
        default=False,
        description="Let `auto` steer a request that brings its own demonstrations or earlier turns; by default it "
        "leaves such a request alone",
    )
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=MAX_TIMEOUT_S,
        allow_inf_nan=False,
        description="Time limit in seconds for the whole answer; the service has a default",
    )

    def to_steering(self, query: Query | None = None) -> Steering:
        """Return the choice for the library. query: what `auto` searches for; by default the whole prompt."""
        auto = Auto(self.strength, query, self.with_demonstrations)
        if self.steering is None:
            return ByModelName(auto)
        if self.steering == "auto":
            return auto
        if self.steering == "off":
            return Off()
        return Listed(tuple(VectorAtStrength(one.id, one.strength) for one in self.steering))


# Null is the default, as for the other fields of OpenAI's endpoints.
Steered = Annotated[
    SteeredIn, BeforeValidator(lambda value: {} if value is None else value, json_schema_input_type=SteeredIn | None)
]


class GenerateIn(SteeredIn):
    """A prompt, and how to steer the answer."""

    model_config = examples(
        {"prompt": "Which hue?", "images": [SAMPLE_IMAGE], "steering": "auto"},
        {
            "prompt": "What colour is it?",
            "images": [SAMPLE_IMAGE],
            "steering": "off",
            "decoding": {"max_new_tokens": 8, "stop": ["."]},
        },
        {"prompt": "Which hue?", "images": [SAMPLE_IMAGE], "stream": True, "timeout_s": 30},
    )

    prompt: str = Field(max_length=MAX_TEXT)
    images: list[EncodedImage] = Field(default_factory=list, max_length=MAX_IMAGES)
    demonstrations: list[DemonstrationIn] = Field(default_factory=list, max_length=MAX_IMAGES)
    model: str | None = Field(default=None, max_length=MAX_MODEL_NAME, description=MODEL_NAME)
    decoding: DecodingIn = Field(default_factory=DecodingIn)
    stream: bool = Field(default=False, description="Send the answer as server-sent events")

    @model_validator(mode="after")
    def _check(self) -> GenerateIn:
        check_images(len(self.to_prompt().every_image), "images")
        if self.demonstrations and not self.prompt and not self.images:
            raise contradiction(
                "prompt", "the prompt is empty; send a text, an image, or both after the demonstrations"
            )
        return self

    def to_prompt(self) -> Prompt:
        """Return the prompt for the worker."""
        shown = (Demonstration(one.prompt, tuple(one.images), one.answer) for one in self.demonstrations)
        return Prompt(self.prompt, tuple(self.images), tuple(shown))


class AppliedOut(NamedOut):
    """A vector applied to the answer."""

    score: float | None = Field(description="Score of the match; null if the request named the vector")
    strength: float

    @classmethod
    def of(cls, applied: AppliedVector) -> AppliedOut:
        return cls(**identify(applied.record), score=applied.score, strength=applied.strength)


class SteeringOut(BaseModel):
    """The vectors applied to the answer, or why there are none."""

    applied: list[AppliedOut]
    reason: ReasonOut | None = Field(description="null when vectors were applied")
    query_text: EmbeddedTextOut | None = Field(
        default=None,
        repr=False,
        description="How much of the text `auto` compared with the library; null if it compared none. If the text is "
        "truncated, its end had no influence on the choice. All images are compared",
    )
    decision: DecisionOut | None = Field(
        default=None, repr=False, description="What `auto` found; null if it compared nothing"
    )

    @classmethod
    def of(cls, plan: Plan | Answer) -> SteeringOut:
        return cls(
            applied=[AppliedOut.of(one) for one in plan.applied],
            reason=ReasonOut.of(plan.reason),
            query_text=EmbeddedTextOut.of(plan.query),
            decision=DecisionOut.of(plan.decision),
        )


class TokenOut(BaseModel):
    """The next piece of a streamed answer."""

    text: str
    tokens: int = Field(description="Number of tokens generated so far")
    logprobs: list[LogprobOut] | None = Field(
        default=None, description="Of the tokens since the last event; left out if not requested; `done` has all"
    )

    @classmethod
    def of(cls, piece: TextPiece) -> TokenOut:
        return cls(text=piece.text, tokens=piece.tokens, logprobs=LogprobOut.list_of(piece.logprobs or None))


class UsageOut(BaseModel):
    """Token counts; image tokens count as prompt tokens."""

    prompt_tokens: int
    completion_tokens: int


class GenerateOut(BaseModel):
    """An answer, and the vectors applied to it."""

    model_config = examples(
        {
            "text": "lorp",
            "finish_reason": "stop",
            "model": "vlibrary/bundled-llava",
            "steering": {
                "applied": [NAMED_EXAMPLE | {"score": 0.97, "strength": 1.0}],
                "reason": None,
                "query_text": EMBEDDED_TEXT_EXAMPLE,
                "decision": DECISION_EXAMPLE,
            },
            "usage": {"prompt_tokens": 11, "completion_tokens": 2},
            "timings": {"retrieval_s": 0.01, "queue_s": 0.0, "prefill_s": 0.01, "decode_s": 0.01, "total_s": 0.03},
        }
    )

    text: str
    finish_reason: str = Field(description="`stop` (end of turn or a stop string) or `length`")
    model: str = Field(repr=False, description="Id of the base model")
    steering: SteeringOut
    usage: UsageOut = Field(repr=False)
    timings: dict[str, float] = Field(repr=False, description=TIMINGS)
    logprobs: list[LogprobOut] | None = Field(
        default=None,
        repr=False,
        description="One entry per generated token, without an end token; null if not requested",
    )
    prompt_logprobs: list[LogprobOut] | None = Field(
        default=None,
        repr=False,
        description="One entry per token of the prompt, those of its template and images included; null if not "
        "requested",
    )

    @classmethod
    def of(cls, answer: Answer) -> GenerateOut:
        generation = answer.generation
        return cls(
            text=generation.text,
            finish_reason=generation.finish_reason,
            model=answer.model_id,
            steering=SteeringOut.of(answer),
            usage=UsageOut(prompt_tokens=generation.prompt_tokens, completion_tokens=generation.completion_tokens),
            timings=dict(generation.timings),
            logprobs=LogprobOut.list_of(generation.logprobs),
            prompt_logprobs=LogprobOut.list_of(generation.prompt_logprobs),
        )
