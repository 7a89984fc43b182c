"""Which prompts bring their own demonstrations."""

from __future__ import annotations

import pytest

from vlibrary.domain.steering import has_demonstrations
from vlibrary.domain.wire import Demonstration, Prompt

IMAGES = (b"a", b"b", b"c")

SHOWN: dict[str, Prompt] = {
    "a demonstration": Prompt("Hue?", (), (Demonstration("Hue?", (), "lorp"),)),
    "a demonstration of images alone": Prompt("Hue?", (), (Demonstration("", (b"a",), "lorp"),)),
    "labelled pairs": Prompt("Question: Hue?\nAnswer: lorp\n\nQuestion: Shape?\nAnswer:"),
    "labelled pairs in German": Prompt("Frage: Farbe?\nAntwort: lorp\nFrage: Form?\nAntwort:"),
    "answers below their labels": Prompt("Question: Hue?\nAnswer:\nlorp\n\nQuestion: Shape?\nAnswer:"),
    "labels in one line": Prompt("Hue? A: lorp Hue? A:"),
    "pairs below several images": Prompt("Hue? lorp\nHue? besk\nHue?", IMAGES),
    "verbatim pairs": Prompt("Q: Hue?\nA: lorp\nQ: Shape?\nA:", verbatim=True),
}
PLAIN: dict[str, Prompt] = {
    "a question": Prompt("Which hue?"),
    "a question with a label": Prompt("Question: Which hue?\nAnswer:"),
    "a label that is only asked for": Prompt("Answer:\nAnswer:"),
    "a label above a blank line": Prompt("Answer:\n\nQuestion: Which hue?\nAnswer:"),
    "a question about several images": Prompt("Which of them is red?\nAnswer in one word.", IMAGES),
    "the same line below one image": Prompt("Hue? one word\nHue?", IMAGES[:1]),
    "a greeting of the assistant": Prompt("Hue?", (), (Demonstration("", (), "Hello!"),)),
    "nothing": Prompt("", IMAGES),
    "tokens": Prompt("", verbatim=True, tokens=(1, 2)),
}


@pytest.mark.parametrize("case", SHOWN)
def test_solved_examples_before_the_question_are_demonstrations(case: str) -> None:
    assert has_demonstrations(SHOWN[case])


@pytest.mark.parametrize("case", PLAIN)
def test_a_prompt_without_solved_examples_has_none(case: str) -> None:
    assert not has_demonstrations(PLAIN[case])
