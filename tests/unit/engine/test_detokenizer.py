"""Streamed text: the pieces join to the text, and no part of a stop string is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from tokenizers.pre_tokenizers import ByteLevel

from tests.model.tiny import build_tokenizer, hf
from vlibrary.engine.detokenizer import Detokenizer

TOKENIZER: Any = build_tokenizer()
# Special tokens (they have no text), single bytes and merges.
TOKENS = st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=24)
REPLACEMENT = "\ufffd"


def tokens_of(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return ids


def byte_tokens(text: str) -> list[int]:
    """Return one token per byte, without merges."""
    ((letters, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    ids: list[int] = TOKENIZER.convert_tokens_to_ids(list(letters))
    return ids


def whole(tokens: Sequence[int]) -> str:
    text: str = TOKENIZER.decode(tokens, skip_special_tokens=True)
    return text


def streamed(tokens: Sequence[int], stop: Sequence[str] = (), tokenizer: Any = TOKENIZER) -> tuple[list[str], bool]:
    """Return all pieces, the last one from `finish`, and whether a stop string ended the stream."""
    stream, pieces = Detokenizer(tokenizer, stop), []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    return pieces, stream.stopped


def expected_text(tokens: Sequence[int], stop: Sequence[str]) -> tuple[str, bool]:
    """Return the text before the first stop string that is complete, and whether there is one."""
    for count in range(1, len(tokens) + 1):
        text = whole(tokens[:count])
        if text.endswith(REPLACEMENT) and count < len(tokens):
            continue
        ends = [text.lstrip().find(one) for one in stop if one in text.lstrip()]
        if ends:
            return text.lstrip()[: min(ends)].rstrip(), True
    return whole(tokens).strip(), False


@given(TOKENS)
def test_the_pieces_join_to_the_text_of_all_tokens(tokens: list[int]) -> None:
    pieces, stopped = streamed(tokens)
    assert "".join(pieces) == whole(tokens).strip()
    assert not stopped


@given(st.text(max_size=12))
def test_characters_of_several_bytes_are_not_split(text: str) -> None:
    pieces, _ = streamed(byte_tokens(text) if text else [])
    assert "".join(pieces) == text.strip()
    if REPLACEMENT not in text:
        assert not any(REPLACEMENT in piece for piece in pieces)


@settings(max_examples=200)
@given(
    st.text("ab é€😀", max_size=14),
    st.lists(st.text("ab é€😀", min_size=1, max_size=4), min_size=1, max_size=3),
    st.booleans(),
)
def test_an_answer_ends_before_the_first_stop_string(text: str, stop: list[str], single_bytes: bool) -> None:
    tokens = (byte_tokens if single_bytes else tokens_of)(text) if text else []
    pieces, stopped = streamed(tokens, stop)
    assert ("".join(pieces), stopped) == expected_text(tokens, stop)


@given(TOKENS, st.lists(st.text("aeo \n", min_size=1, max_size=3), min_size=1, max_size=2))
def test_streamed_text_is_a_prefix_of_the_answer(tokens: list[int], stop: list[str]) -> None:
    stream, shown = Detokenizer(TOKENIZER, stop), ""
    answer = expected_text(tokens, stop)[0]
    for token in tokens:
        shown += stream.push(token)
        assert answer.startswith(shown)
        if stream.stopped:
            break
    assert shown + stream.finish() == answer


@pytest.mark.parametrize(
    ("text", "stop", "answer"),
    [
        ("aaab and more", ["aab"], "a"),  # overlaps itself
        ("aabaab", ["aabaac", "b"], "aa"),
        ("one two three", ["wo t"], "one t"),  # over several tokens
        ("abcd", ["bcx", "cd"], "ab"),  # begins like one, ends with another
        ("stop here", ["stop"], ""),
        ("never", ["ever more", "nev!"], "never"),  # held back to the end, and then shown
        ("end of line\nnext", ["\n"], "end of line"),
        ("words  ", [" "], "words"),
        ("😀😁", ["😁"], "😀"),  # three of four bytes are shared
    ],
)
def test_stop_strings_in_single_byte_tokens(text: str, stop: list[str], answer: str) -> None:
    pieces, stopped = streamed(byte_tokens(text), stop)
    assert "".join(pieces) == answer
    assert stopped is (text != "never")


def test_text_is_sent_as_soon_as_it_is_certain() -> None:
    stream = Detokenizer(TOKENIZER, ["stop"])
    pieces = [stream.push(token) for token in byte_tokens("  a st sé")]
    # "st" may begin a stop string until a space follows; a trailing space waits for a letter, half an é for the rest.
    assert pieces == ["", "", "a", "", "", "", " st", "", "", " sé"]


def test_outer_white_space_is_removed() -> None:
    pieces, _ = streamed(byte_tokens(" \n one  two \n\t"))
    assert "".join(pieces) == "one  two"
    assert all(piece == piece.rstrip() for piece in pieces)


def marking_words() -> Any:
    """Return a tokenizer like SentencePiece: a mark before each word, which is no space before the first word."""
    vocabulary = {text: number for number, text in enumerate(("<unk>", "\u2581one", "\u2581two", "s", "\u2581"))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.decoder = decoders.Metaspace()
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@given(st.lists(st.integers(0, 4), max_size=8))
def test_a_space_that_depends_on_the_previous_token_is_kept(tokens: list[int]) -> None:
    tokenizer = marking_words()
    pieces, _ = streamed(tokens, tokenizer=tokenizer)
    assert "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True).strip()


@given(TOKENS.filter(bool), TOKENS, st.integers(0, 3))
def test_a_continuation_keeps_its_white_space(prompt: list[int], tokens: list[int], spaces: int) -> None:
    """Prompt and answer join to the text of their tokens, unless a character is split between the two."""
    blank = tokens_of(" " * spaces)
    stream = Detokenizer(TOKENIZER, continues=prompt)
    text = "".join([*map(stream.push, [*blank, *tokens, *blank]), stream.finish()])
    if REPLACEMENT not in whole(prompt):
        assert whole(prompt) + text == whole([*prompt, *blank, *tokens, *blank])
