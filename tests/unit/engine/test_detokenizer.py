"""Streamed text: the pieces are the text, nothing is taken back, nothing of a stop text gets out."""

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
HALF_A_LETTER = "\ufffd"


def tokens_of(text: str) -> list[int]:
    ids: list[int] = TOKENIZER.encode(text, add_special_tokens=False)
    return ids


def byte_tokens(text: str) -> list[int]:
    """One token a byte: no merge joins the parts of a letter."""
    ((letters, _),) = ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    ids: list[int] = TOKENIZER.convert_tokens_to_ids(list(letters))
    return ids


def whole(tokens: Sequence[int]) -> str:
    text: str = TOKENIZER.decode(tokens, skip_special_tokens=True)
    return text


def streamed(tokens: Sequence[int], stop: Sequence[str] = (), tokenizer: Any = TOKENIZER) -> tuple[list[str], bool]:
    """All pieces, the last one from `finish`; and whether it stopped, which ends the pushing."""
    stream, pieces = Detokenizer(tokenizer, stop), []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    return pieces, stream.stopped


def wanted(tokens: Sequence[int], stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first stop text that is complete after as few tokens as possible."""
    for count in range(1, len(tokens) + 1):
        text = whole(tokens[:count])
        if text.endswith(HALF_A_LETTER) and count < len(tokens):
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
def test_letters_of_several_bytes_come_whole(text: str) -> None:
    pieces, _ = streamed(byte_tokens(text) if text else [])
    assert "".join(pieces) == text.strip()
    if HALF_A_LETTER not in text:
        assert not any(HALF_A_LETTER in piece for piece in pieces)


@settings(max_examples=200)
@given(
    st.text("ab é€😀", max_size=14),
    st.lists(st.text("ab é€😀", min_size=1, max_size=4), min_size=1, max_size=3),
    st.booleans(),
)
def test_an_answer_ends_before_the_first_stop_text(text: str, stop: list[str], cut_to_bytes: bool) -> None:
    tokens = (byte_tokens if cut_to_bytes else tokens_of)(text) if text else []
    pieces, stopped = streamed(tokens, stop)
    assert ("".join(pieces), stopped) == wanted(tokens, stop)


@given(TOKENS, st.lists(st.text("aeo \n", min_size=1, max_size=3), min_size=1, max_size=2))
def test_what_was_shown_stays_the_beginning_of_the_answer(tokens: list[int], stop: list[str]) -> None:
    stream, shown = Detokenizer(TOKENIZER, stop), ""
    answer = wanted(tokens, stop)[0]
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
def test_stop_texts_byte_by_byte(text: str, stop: list[str], answer: str) -> None:
    pieces, stopped = streamed(byte_tokens(text), stop)
    assert "".join(pieces) == answer
    assert stopped is (text != "never")


def test_text_comes_as_soon_as_it_is_certain() -> None:
    stream = Detokenizer(TOKENIZER, ["stop"])
    pieces = [stream.push(token) for token in byte_tokens("  a st sé")]
    # "st" may begin a stop text until a space follows; a trailing space waits for a letter, half an é for the rest.
    assert pieces == ["", "", "a", "", "", "", " st", "", "", " sé"]


def test_outer_white_space_is_left_out_and_inner_kept() -> None:
    pieces, _ = streamed(byte_tokens(" \n one  two \n\t"))
    assert "".join(pieces) == "one  two"
    assert all(piece == piece.rstrip() for piece in pieces)


def marking_words() -> Any:
    """A tokenizer of SentencePiece's kind: a mark before each word, which is no space before the first one."""
    vocabulary = {text: number for number, text in enumerate(("<unk>", "\u2581one", "\u2581two", "s", "\u2581"))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.decoder = decoders.Metaspace()
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


@given(st.lists(st.integers(0, 4), max_size=8))
def test_a_space_that_only_the_token_before_tells_of_is_kept(tokens: list[int]) -> None:
    tokenizer = marking_words()
    pieces, _ = streamed(tokens, tokenizer=tokenizer)
    assert "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True).strip()


@given(TOKENS.filter(bool), TOKENS, st.integers(0, 3))
def test_a_continuation_keeps_its_white_space(prompt: list[int], tokens: list[int], spaces: int) -> None:
    """Prompt and answer join to the text of their tokens, unless a character is split between the two."""
    blank = tokens_of(" " * spaces)
    stream = Detokenizer(TOKENIZER, continues=prompt)
    text = "".join([*map(stream.push, [*blank, *tokens, *blank]), stream.finish()])
    if HALF_A_LETTER not in whole(prompt):
        assert whole(prompt) + text == whole([*prompt, *blank, *tokens, *blank])
