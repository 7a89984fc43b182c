"""Log-probabilities of tokens in answers, in the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from vlibrary.domain.wire import ScoredToken

# JSON has no infinity; OpenAI and vLLM send this number for tokens of probability 0.
LEAST_LOGPROB = -9999.0


class TopLogprobOut(BaseModel):
    """One of the most likely tokens at a place."""

    id: int = Field(description="Token id")
    token: str = Field(description="Text of the token; U+FFFD stands for parts of characters")
    bytes: list[int] = Field(description="UTF-8 bytes of the token; a control token has those of its name")
    logprob: float = Field(
        description="Natural logarithm of the probability in the steered model's distribution, before temperature, "
        "penalties and masks; -9999 for probability 0"
    )

    @classmethod
    def of(cls, one: ScoredToken) -> TopLogprobOut:
        assert one.logprob is not None
        return cls(id=one.token, token=_text(one), bytes=list(one.data), logprob=max(one.logprob, LEAST_LOGPROB))


class LogprobOut(BaseModel):
    """A token with its log-probability and the most likely tokens at its place."""

    id: int = Field(description="Token id")
    token: str = Field(description="Text of the token; U+FFFD stands for parts of characters")
    bytes: list[int] = Field(description="UTF-8 bytes of the token; a control token has those of its name")
    logprob: float | None = Field(
        description="As for the most likely tokens; null for the first token of a prompt, which follows nothing"
    )
    top_logprobs: list[TopLogprobOut] = Field(description="The most likely tokens at this place, best first")

    @classmethod
    def of(cls, one: ScoredToken) -> LogprobOut:
        logprob = None if one.logprob is None else max(one.logprob, LEAST_LOGPROB)
        top = [TopLogprobOut.of(other) for other in one.top]
        return cls(id=one.token, token=_text(one), bytes=list(one.data), logprob=logprob, top_logprobs=top)

    @classmethod
    def list_of(cls, scored: Sequence[ScoredToken] | None) -> list[LogprobOut] | None:
        """Return the list, or None if log-probabilities were not requested."""
        return None if scored is None else [cls.of(one) for one in scored]


def _text(one: ScoredToken) -> str:
    return one.data.decode(errors="replace")
