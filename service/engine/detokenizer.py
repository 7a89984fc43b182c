"""Incremental detokenization: no partial characters, and no text that would have to be withdrawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_PARTIAL = "\ufffd"  # stands for the bytes of an incomplete character
_CONTEXT = 4  # tokens before the answer, on which the text of its first token may depend


class Detokenizer:
    """The text of one answer, without outer white space. The possible start of a stop text is held back.

    continues: the tokens of a text that the answer continues; its white space then belongs to it.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), *, continues: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = [_StopText(one) for one in stop]
        self._strips = not continues
        self._tokens: list[int] = list(continues[-_CONTEXT:])
        # Tokens [0, read) are decoded. Decoding starts at `anchor`, as a token's text depends on the one before it.
        self._anchor, self._read = 0, len(self._tokens)
        self._text = ""
        self._emitted = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """Add a token and return the text that became certain. Sets `stopped` when a stop text is complete."""
        self._tokens.append(token)
        self._extend(final=False)
        if self.stopped:
            return self._emit(self._text)
        held = max((stop.matched for stop in self._stops), default=0)
        return self._emit(self._text[: len(self._text) - held])

    def finish(self) -> str:
        """Return the text that was held back and belongs to the answer."""
        if not self.stopped:
            self._extend(final=True)
        return self._emit(self._text)

    def _extend(self, *, final: bool) -> None:
        """Decode the new tokens. Text that ends in a partial character waits for the next token, unless it is final."""
        before = self._decode(self._tokens[self._anchor : self._read])
        now = self._decode(self._tokens[self._anchor :])
        if len(now) <= len(before) or (now.endswith(_PARTIAL) and not final):
            return
        new = now[len(before) :]
        if self._strips and not self._text:
            new = new.lstrip()
        self._anchor, self._read = self._read, len(self._tokens)
        starts = [len(self._text) + start for stop in self._stops if (start := stop.find(new)) is not None]
        self._text += new
        if starts:
            self._text, self.stopped = self._text[: min(starts)], True

    def _emit(self, certain: str) -> str:
        end = len(certain.rstrip() if self._strips else certain)
        start, self._emitted = self._emitted, max(self._emitted, end)
        return self._text[start : self._emitted]

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class _StopText:
    """Finds a text in a stream in constant time per character (the algorithm of Knuth, Morris and Pratt).

    matched: the length of the longest beginning of the stop text with which the stream ends.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        # For every beginning of the stop text: the longest shorter one with which it ends.
        self._shorter = [0, 0]
        for end in range(1, len(text)):
            self._shorter.append(self._extend(self._shorter[end], text[end]))
        self.matched = 0

    def find(self, new: str) -> int | None:
        """Add text to the stream. Return where the first occurrence starts, relative to the new text, or None."""
        for place, character in enumerate(new, start=1):
            self.matched = self._extend(self.matched, character)
            if self.matched == len(self._text):
                return place - len(self._text)
        return None

    def _extend(self, matched: int, character: str) -> int:
        while matched and self._text[matched] != character:
            matched = self._shorter[matched]
        return matched + 1 if self._text[matched] == character else 0
