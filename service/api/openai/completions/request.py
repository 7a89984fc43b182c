"""The request body of OpenAI's completions."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, WithJsonSchema, model_validator

from vlibrary.api.openai.chat import MAX_ANSWERS, StreamOptions
from vlibrary.api.openai.decoding import SamplingIn
from vlibrary.api.openai.fields import Hint, NonBlankText, Only, find_ignored, wrong_type
from vlibrary.domain.wire import Decoding, Prompt
from vlibrary.schemas.examples import examples
from vlibrary.schemas.fields import Logprobs, TokenId, contradiction
from vlibrary.schemas.generate import MAX_MODEL_NAME, MODEL_NAME, Steered, SteeredIn

MAX_TOKENS_IN = 100_000
_DEFAULT_TOKENS = 16  # OpenAI's


def _as_prompts(value: Any) -> Any:
    """Return a list of prompts: a text is one, and so is a list of token ids."""
    if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
        return [value]
    if not isinstance(value, list):
        raise wrong_type("a string, a list of token ids, or a list of these")
    return value


TokenPrompt = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_TOKENS_IN)]
OnePrompt = Annotated[
    Annotated[NonBlankText, Tag("text")] | Annotated[TokenPrompt, Tag("tokens")],
    Discriminator(lambda value: "tokens" if isinstance(value, list) else "text"),
]
Prompts = Annotated[list[OnePrompt], Field(min_length=1, max_length=MAX_ANSWERS)]
PromptList = Annotated[list[NonBlankText | TokenPrompt], Field(min_length=1, max_length=MAX_ANSWERS)]


class CompletionsIn(SamplingIn):
    """Texts to continue."""

    model_config = examples(
        {"prompt": "USER: Which hue? ASSISTANT:", "max_tokens": 8, "temperature": 0, "vlibrary": {"steering": "off"}},
        {"prompt": ["one", "two"], "max_tokens": 0, "echo": True, "logprobs": 1, "vlibrary": {"steering": "off"}},
        {"prompt": "Which hue?", "n": 2, "stream": True, "stream_options": {"include_usage": True}},
    )

    model: str | None = Field(default=None, max_length=MAX_MODEL_NAME, description=MODEL_NAME)
    prompt: Annotated[
        Prompts,
        BeforeValidator(_as_prompts, json_schema_input_type=NonBlankText | TokenPrompt | PromptList),
    ] = Field(description="A text, a list of token ids, or a list of these. The model continues it without a template")
    max_tokens: int | None = Field(
        default=None,
        ge=0,
        lt=2**63,
        description=f"Maximum length of the answer; defaults to {_DEFAULT_TOKENS}. 0 reads the prompt only",
    )
    n: int | None = Field(default=None, ge=1, le=MAX_ANSWERS, description="Answers to each prompt; defaults to 1")
    best_of: int | None = Field(
        default=None,
        ge=1,
        le=MAX_ANSWERS,
        description="Sample this many answers and return the `n` with the highest log-probability per token; not with "
        "`stream`",
    )
    echo: bool | None = Field(default=None, description="Return the prompt before the answer")
    logprobs: Logprobs | None = Field(
        default=None,
        description="Return the log-probabilities of the tokens and of this many of the most likely ones; with `echo`, "
        "those of the prompt too",
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    vlibrary: Steered = Field(default_factory=SteeredIn, description="How to steer the answers")

    suffix: Annotated[Any, AfterValidator(Only("")), WithJsonSchema({"enum": [None, ""]})] = None
    user: Hint = None

    @model_validator(mode="after")
    def _check(self) -> CompletionsIn:
        if self.samples < self.answers:
            raise contradiction(
                "best_of", f"best_of is {self.best_of}, less than n, which is {self.n}; raise best_of or lower n"
            )
        if self.stream and self.samples > self.answers:
            raise contradiction("best_of", "best_of cannot be streamed; omit it, or set stream to false")
        if self.stream and self.echo and (self.logprobs is not None or self._has_tokens):
            raise contradiction("echo", "echo can be streamed only for a text without logprobs; set stream to false")
        if len(self.prompt) * self.samples > MAX_ANSWERS:
            raise contradiction(
                "prompt",
                f"{len(self.prompt)} prompts with {self.samples} answers each are too many; send at most {MAX_ANSWERS} "
                "answers per request",
            )
        return self

    @property
    def ignored(self) -> list[str]:
        """The names of the hints that the service ignores."""
        return find_ignored(self)

    @property
    def answers(self) -> int:
        """How many answers to return for each prompt."""
        return self.n or 1

    @property
    def _has_tokens(self) -> bool:
        return any(not isinstance(one, str) for one in self.prompt)

    @property
    def samples(self) -> int:
        """How many answers to generate for each prompt."""
        return self.best_of or self.answers

    def to_prompts(self) -> list[Prompt]:
        """Return the prompts for the worker."""
        return [
            Prompt(one, verbatim=True) if isinstance(one, str) else Prompt("", verbatim=True, tokens=tuple(one))
            for one in self.prompt
        ]

    def to_completion_decoding(self) -> Decoding:
        """Return the decoding parameters. Echoed tokens have their text from their log-probabilities."""
        scores_prompt = self.echo and (self._has_tokens or self.logprobs is not None)
        ranked = 0 if self.samples > self.answers and self.logprobs is None else self.logprobs
        most = _DEFAULT_TOKENS if self.max_tokens is None else self.max_tokens
        found = self.to_decoding(most, logprobs=ranked, prompt_logprobs=(self.logprobs or 0) if scores_prompt else None)
        # Harnesses score a prompt so, and drop the last entry, that of the generated token: an end token needs one too.
        return replace(found, ignore_eos=True) if scores_prompt and self.logprobs is not None and most == 1 else found
