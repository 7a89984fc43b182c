"""How OpenAI's endpoints decode: their fields and defaults, with vLLM's additions."""

from __future__ import annotations

import secrets
from typing import Annotated

from pydantic import BeforeValidator, Field

from vlibrary.api.openai.fields import EmptyList, EmptyObject, Hint, Off, On, One, Unsupported, Zero
from vlibrary.domain.wire import Decoding
from vlibrary.schemas.fields import LogitBias, Penalty, Seed, StopText, StrictIn, TokenId
from vlibrary.schemas.generate import MAX_STOPS

# OpenAI lets an answer fill the context; here its length is reserved in the KV cache before it starts.
DEFAULT_TOKENS = 256

StopTexts = Annotated[list[StopText], Field(max_length=MAX_STOPS)]
Stops = Annotated[
    StopTexts | None,
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value,
        json_schema_input_type=StopText | StopTexts | None,
    ),
]


class SamplingIn(StrictIn):
    """The fields that OpenAI's endpoints share; null is the default, since some clients send all.

    The fields from `bad_words` on are options of vLLM and other servers that this service does not have: each accepts
    the value that changes nothing.
    """

    temperature: float | None = Field(
        default=None, ge=0, le=2, allow_inf_nan=False, description="Defaults to 1; 0 takes the most likely token"
    )
    top_p: float | None = Field(
        default=None, ge=0, le=1, allow_inf_nan=False, description="Defaults to 1; 0 takes the most likely token"
    )
    stop: Stops = Field(default=None, description="The answer ends before the first of these strings")
    seed: Seed | None = Field(default=None, description="Random by default")
    presence_penalty: Penalty | None = Field(
        default=None, description="Subtracted from the logits of the answer's tokens"
    )
    frequency_penalty: Penalty | None = Field(default=None, description="The same, once per occurrence")
    logit_bias: LogitBias | None = Field(default=None, description="Numbers to add to the logits of these token ids")
    top_k: int | None = Field(
        default=None, ge=-1, description="Sample from this many of the most likely tokens; 0 and -1: all"
    )
    min_p: float | None = Field(
        default=None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Leave out tokens whose probability is below this share of the highest one",
    )
    repetition_penalty: float | None = Field(
        default=None,
        gt=0,
        le=10,
        allow_inf_nan=False,
        description="Above 1: tokens of the prompt and the answer become less likely",
    )
    min_tokens: int | None = Field(default=None, ge=0, description="Let no end token come before this many tokens")
    ignore_eos: bool | None = Field(default=None, description="Continue after the model's end tokens")
    stop_token_ids: list[TokenId] | None = Field(
        default=None, max_length=MAX_STOPS, description="Tokens that end the answer and are not part of it"
    )

    bad_words: EmptyList = None
    allowed_token_ids: Unsupported = None
    best_of: One = None
    use_beam_search: Off = None
    length_penalty: One = None
    early_stopping: Off = None
    include_stop_str_in_output: Off = None
    skip_special_tokens: On = None
    spaces_between_special_tokens: On = None
    truncate_prompt_tokens: Unsupported = None
    return_token_ids: Off = None
    return_tokens_as_token_ids: Off = None
    structured_outputs: Unsupported = None
    guided_json: Unsupported = None
    guided_regex: Unsupported = None
    guided_choice: Unsupported = None
    guided_grammar: Unsupported = None
    logits_processors: EmptyList = None
    vllm_xargs: EmptyObject = None
    kv_transfer_params: Unsupported = None
    priority: Zero = None
    cache_salt: Hint = None
    request_id: Hint = None

    def to_decoding(
        self,
        max_tokens: int | None,
        *,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        json_schema: str | None = None,
    ) -> Decoding:
        """Return the parameters for the worker; None is a field that the request does not set."""
        return Decoding(
            max_new_tokens=DEFAULT_TOKENS if max_tokens is None else max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=secrets.randbits(63) if self.seed is None else self.seed,
            stop=tuple(self.stop or ()),
            top_k=max(self.top_k or 0, 0),
            min_p=self.min_p or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=tuple((int(token), bias) for token, bias in (self.logit_bias or {}).items()),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            min_new_tokens=min(self.min_tokens or 0, DEFAULT_TOKENS if max_tokens is None else max_tokens),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            json_schema=json_schema,
        )
