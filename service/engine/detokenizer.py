"""From tokens to text as they come: never half a letter, never a text that must be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HALF_A_LETTER = "\ufffd"  # what a decoder writes for bytes that are not a whole letter yet


class Detokenizer:
    """One answer's text. Outer white space is left out; what may yet turn out to be a stop text is held back."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens: list[int] = []
        # Tokens [0, read) are in the text; decoding starts at `anchor`, since a token's text depends on the one before.
        self._anchor = self._read = 0
        self._text = ""
        self._shown = 0
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain now and was not before; "" for none. Sets `stopped` when a stop text is complete."""
        self._tokens.append(token)
        self._extend(final=False)
        return self._certain(self._safe_end())

    def finish(self) -> str:
        """What was held back and belongs to the answer after all."""
        if not self.stopped:
            self._extend(final=True)
        return self._certain(len(self._text.rstrip()))

    def _extend(self, *, final: bool) -> None:
        """Decode what is new; text that ends in half a letter waits for the rest, unless there is none."""
        before = self._decode(self._tokens[self._anchor : self._read])
        now = self._decode(self._tokens[self._anchor :])
        if len(now) <= len(before) or (now.endswith(_HALF_A_LETTER) and not final):
            return
        self._text = (self._text + now[len(before) :]).lstrip() if not self._text else self._text + now[len(before) :]
        self._anchor, self._read = self._read, len(self._tokens)
        ends = [self._text.find(stop) for stop in self._stop if stop in self._text]
        if ends:
            self._text, self.stopped = self._text[: min(ends)], True

    def _safe_end(self) -> int:
        """Up to where the text cannot change: before trailing white space and before the beginning of a stop text."""
        if self.stopped:
            return len(self._text.rstrip())
        held = max((_overlap(self._text, stop) for stop in self._stop), default=0)
        return len(self._text[: len(self._text) - held].rstrip())

    def _certain(self, end: int) -> str:
        shown, self._shown = self._shown, max(self._shown, end)
        return self._text[shown : self._shown]

    def _decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest beginning of `stop` that `text` ends with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
