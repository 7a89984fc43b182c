"""The bytes of tokens join to the bytes of the text, for every kind of tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from tests.model.tiny import build_tokenizer, hf
from vlibrary.engine.token_bytes import TokenBytes

BYTE_LEVEL: Any = build_tokenizer()
TEXTS = st.text(max_size=20)


def with_byte_fallback() -> Any:
    """A tokenizer of Llama's kind: marks for spaces, and bytes for characters that it does not know."""
    known = ["<unk>", "\u2581", "a", "b", "\u2581a", "ab", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {text: number for number, text in enumerate(known)}
    merges = [("\u2581", "a"), ("a", "b")]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def joined(tokenizer: Any, text: str) -> bytes:
    names = TokenBytes(tokenizer)
    return b"".join(names[token] for token in tokenizer.encode(text, add_special_tokens=False))


@given(TEXTS)
def test_byte_level_tokens_have_the_bytes_of_the_text(text: str) -> None:
    assert joined(BYTE_LEVEL, text) == text.encode()


FALLBACK = with_byte_fallback()


@given(st.text("ab é€😀\n", max_size=12))
def test_tokens_with_byte_fallback_have_the_bytes_of_the_text(text: str) -> None:
    assert joined(FALLBACK, text) == text.encode()


@pytest.mark.parametrize("make", [build_tokenizer, with_byte_fallback])
def test_a_control_token_has_the_bytes_of_its_name(make: Callable[[], Any]) -> None:
    tokenizer = make()
    name = tokenizer.all_special_tokens[0]
    assert TokenBytes(tokenizer)[tokenizer.convert_tokens_to_ids(name)] == name.encode()


def test_an_id_of_a_padded_vocabulary_has_no_bytes() -> None:
    assert TokenBytes(BYTE_LEVEL)[len(BYTE_LEVEL) + 5] == b""
