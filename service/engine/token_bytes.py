"""The bytes of single tokens, which a decoded text does not show when a token holds a part of a character."""

from __future__ import annotations

import json
import re
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
# Byte-level tokenizers write these bytes as the character with the same number, and the others from U+0100 on.
_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES_OF_CHARACTERS = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + place): byte for place, byte in enumerate(_OTHERS)
}


class TokenBytes:
    """Maps token ids to bytes and remembers them. A control token's bytes are its name, in UTF-8."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added: dict[int, bytes] = {
            token: one.content.encode() for token, one in tokenizer.added_tokens_decoder.items()
        }
        self._decoders = _decoder_types(tokenizer)
        self._known: dict[int, bytes] = {}

    def __getitem__(self, token: int) -> bytes:
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._compute(token)
        return found

    def _compute(self, token: int) -> bytes:
        if (name := self._added.get(token)) is not None:
            return name
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # the model's vocabulary is padded
            return b""
        if "ByteLevel" in self._decoders and all(one in _BYTES_OF_CHARACTERS for one in piece):
            return bytes(_BYTES_OF_CHARACTERS[one] for one in piece)
        if byte := _BYTE.fullmatch(piece):
            return bytes([int(byte[1], 16)])
        # A token's text may depend on whether it is the first.
        once, twice = (self._tokenizer.decode([token] * times) for times in (1, 2))
        text: str = twice[len(once) :]
        return text.encode()


def _decoder_types(tokenizer: Any) -> set[str]:
    """Return the kinds of the decoders of a `tokenizers` tokenizer; none for tokenizers written in Python."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return set()
    state = json.loads(backend.decoder.__getstate__())
    return {one["type"] for one in state.get("decoders", [state])}
