"""Incremental detokenization: no partial characters, and no text that would have to be withdrawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PARTIAL = "\ufffd"  # stands for the bytes of an incomplete character


class Detokenizer:
    """The text of one answer, without outer white space. The possible start of a stop text is held back."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        # Tokens [0, read) are decoded. Decoding starts at `anchor`, as a token's text depends on the one before it.
        self._anchor = self._read = 0
        self._text = ""
        self._emitted = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token and return the text that became certain. Sets `stopped` when a stop text is complete."""
        self._tokens.append(token)
        self._extend(final=False)
        if self.stopped:
            return self._emit(len(self._text.rstrip()))
        held = max((_overlap(self._text, stop) for stop in self._stop), default=0)
        return self._emit(len(self._text[: len(self._text) - held].rstrip()))

    def finish(self) -> str:
        """Return the text that was held back and belongs to the answer."""
        if not self.stopped:
            self._extend(final=True)
        return self._emit(len(self._text.rstrip()))

    def _extend(self, *, final: bool) -> None:
        """Decode the new tokens. Text that ends in a partial character waits for the next token, unless it is final."""
        before = self._decode(self._tokens[self._anchor : self._read])
        now = self._decode(self._tokens[self._anchor :])
        if len(now) <= len(before) or (now.endswith(_PARTIAL) and not final):
            return
        self._text = (self._text + now[len(before) :]).lstrip() if not self._text else self._text + now[len(before) :]
        self._anchor, self._read = self._read, len(self._tokens)
        ends = [self._text.find(stop) for stop in self._stop if stop in self._text]
        if ends:
            self._text, self.stopped = self._text[: min(ends)], True

    def _emit(self, end: int) -> str:
        start, self._emitted = self._emitted, max(self._emitted, end)
        return self._text[start : self._emitted]

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest proper prefix of `stop` that `text` ends with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
