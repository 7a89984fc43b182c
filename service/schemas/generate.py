"""The bodies of /generate: what is asked, the whole answer, and the events of a streamed one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vlibrary.domain.query import Query
from vlibrary.domain.steering import NotSteered, SteeringReason
from vlibrary.domain.wire import Decoding, Demonstration, Prompt, TextPiece
from vlibrary.library.references import MAX_REFERENCE
from vlibrary.library.steer import Answer, AppliedVector, Auto, Chosen, Off, Plan, Steering
from vlibrary.schemas.fields import MAX_IMAGES, MAX_TEXT, EncodedImage, StopText, Strength, StrictIn, check_images
from vlibrary.schemas.samples import SAMPLE_IMAGE
from vlibrary.schemas.vectors import NAMED_EXAMPLE, example

MAX_STOPS = 4
MAX_VECTORS = 16
MAX_TIMEOUT_S = 600.0
MAX_NEW_TOKENS = 4096


class ChosenVector(StrictIn):
    """A vector to apply."""

    id: str = Field(max_length=MAX_REFERENCE, description="Id, name (its newest version), name:3 or name@alias")
    strength: Strength = 1.0


class DecodingIn(StrictIn):
    """How tokens are drawn; temperature 0 always takes the likeliest."""

    max_new_tokens: int = Field(default=16, ge=1, le=MAX_NEW_TOKENS)
    temperature: float = Field(default=0.0, ge=0.0, le=10.0, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**63)
    stop: list[StopText] = Field(
        default_factory=list, max_length=MAX_STOPS, description="The answer ends before the first of these texts"
    )

    def decoding(self) -> Decoding:
        """As the worker takes it."""
        return Decoding(self.max_new_tokens, self.temperature, self.top_p, self.seed, tuple(self.stop))


class DemonstrationIn(StrictIn):
    """A worked example that goes into the prompt, for comparison with steering."""

    prompt: str = Field(max_length=MAX_TEXT)
    images: list[EncodedImage] = Field(default_factory=list, max_length=MAX_IMAGES)
    answer: str = Field(max_length=MAX_TEXT)


class SteeredIn(StrictIn):
    """What every way of asking for a steered answer has in common."""

    steering: Literal["auto", "off"] | Annotated[list[ChosenVector], Field(max_length=MAX_VECTORS)] = Field(
        default="auto", description="auto: the best match of prompt and images; off: none; or a list of vectors"
    )
    strength: Strength = Field(default=1.0, description="Strength of the vector that auto applies")
    timeout_s: float | None = Field(
        default=None,
        gt=0,
        le=MAX_TIMEOUT_S,
        allow_inf_nan=False,
        description="Seconds within which the whole answer must be there; the service has a default",
    )

    def chosen(self, query: Query | None = None) -> Steering:
        """As the library takes it. query: what auto looks for, if it is not the whole prompt."""
        if self.steering == "auto":
            return Auto(self.strength, query)
        if self.steering == "off":
            return Off()
        return Chosen(tuple((one.id, one.strength) for one in self.steering))


class GenerateIn(SteeredIn):
    """A prompt and how to steer the answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": "Which hue?", "images": [SAMPLE_IMAGE], "steering": "auto"},
                {
                    "prompt": "What colour is it?",
                    "images": [SAMPLE_IMAGE],
                    "steering": "off",
                    "decoding": {"max_new_tokens": 8, "stop": ["."]},
                },
                {"prompt": "Which hue?", "images": [SAMPLE_IMAGE], "stream": True, "timeout_s": 30},
            ]
        },
    )

    prompt: str = Field(max_length=MAX_TEXT)
    images: list[EncodedImage] = Field(default_factory=list, max_length=MAX_IMAGES)
    demonstrations: list[DemonstrationIn] = Field(default_factory=list, max_length=MAX_IMAGES)
    model: str | None = Field(default=None, description="Id of the base model; the served one when left out")
    decoding: DecodingIn = Field(default_factory=DecodingIn)
    stream: bool = Field(default=False, description="Send the answer as it comes, as text/event-stream")

    @model_validator(mode="after")
    def _check(self) -> GenerateIn:
        check_images(len(self.prompt_of().every_image))
        return self

    def prompt_of(self) -> Prompt:
        """As the worker takes it."""
        shown = (Demonstration(one.prompt, tuple(one.images), one.answer) for one in self.demonstrations)
        return Prompt(self.prompt, tuple(self.images), tuple(shown))


class AppliedOut(BaseModel):
    """A vector that acted on the answer."""

    id: str
    name: str
    version: int
    sha256: str
    score: float | None = Field(description="null when the caller chose the vector")
    strength: float

    @classmethod
    def of(cls, applied: AppliedVector) -> AppliedOut:
        record = applied.record
        return cls(
            id=record.id,
            name=record.name,
            version=record.version,
            sha256=record.sha256,
            score=applied.score,
            strength=applied.strength,
        )


class ReasonOut(BaseModel):
    """Why no vector was applied."""

    code: SteeringReason = Field(
        description="`off`: the request switched steering off. `no_vectors`: the request's list of vectors is empty. "
        "`no_match`: the library has no vector for this base model. `below_threshold`: the best match scores below "
        "its threshold."
    )
    detail: str = Field(description="Explanation for people; its wording may change")

    @classmethod
    def of(cls, reason: NotSteered | None) -> ReasonOut | None:
        return None if reason is None else cls(code=reason.code, detail=reason.detail)


class SteeringOut(BaseModel):
    """The vectors applied to the answer, or why there are none."""

    applied: list[AppliedOut]
    reason: ReasonOut | None = Field(description="null when vectors were applied")

    @classmethod
    def of(cls, plan: Plan | Answer) -> SteeringOut:
        return cls(applied=[AppliedOut.of(one) for one in plan.applied], reason=ReasonOut.of(plan.reason))


class TokenOut(BaseModel):
    """The next piece of a streamed answer. tokens: how many are drawn so far."""

    text: str
    tokens: int

    @classmethod
    def of(cls, piece: TextPiece) -> TokenOut:
        return cls(text=piece.text, tokens=piece.tokens)


class UsageOut(BaseModel):
    """Tokens read and written. Text and image tokens alike count as prompt tokens."""

    prompt_tokens: int
    completion_tokens: int


class GenerateOut(BaseModel):
    """The answer."""

    model_config = example(
        {
            "text": "lorp",
            "finish_reason": "stop",
            "model": "vlibrary/bundled-llava",
            "steering": {"applied": [NAMED_EXAMPLE | {"score": 0.97, "strength": 1.0}], "reason": None},
            "usage": {"prompt_tokens": 11, "completion_tokens": 2},
            "timings": {"total_s": 0.03},
        }
    )

    text: str
    finish_reason: str
    model: str
    steering: SteeringOut
    usage: UsageOut
    timings: dict[str, float] = Field(description="Seconds by stage, inside the worker")

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
        )
