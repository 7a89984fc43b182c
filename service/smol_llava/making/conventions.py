"""The answer conventions of training: what is asked, and in which words and form it is answered.

A convention is drawn once per episode and holds for all its pictures. Two thirds of the conventions are natural ones,
which a person could use; the others answer in arbitrary words. None of them is one that evaluation uses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from vlibrary.smol_llava.making.pictures import Facts
from vlibrary.smol_llava.making.words import CLASSES, COMMON_WORDS, LANGUAGES, NAMES, PAIRS, SYNONYMS, VALUES

Rng = np.random.Generator
T = TypeVar("T")
Ask = Callable[[Facts, Rng], tuple[str, str]]
KINDS: Final = {
    "scene": ("shape", "colour", "size", "count", "position", "background"),
    "digit": ("digit", "parity", "half"),
    "shape": ("shape", "colour"),
}


@dataclass(frozen=True)
class Convention:
    """kind: of the pictures, or "text" for none. ask: question and answer for a picture's facts.

    plain: whether the first answer is the one to give without demonstrations. arbitrary: whether the answers' words
    have nothing to do with what the pictures show.
    """

    kind: str
    ask: Ask
    plain: bool = False
    arbitrary: bool = False


def pick(options: Sequence[T], rng: Rng) -> T:
    return options[int(rng.integers(len(options)))]


_QUESTIONS: Final = (
    "What is the {}?",
    "Which {}?",
    "Name the {}.",
    "{}?",
    "What {} is it?",
    "Tell me the {}.",
    "Say the {}.",
    "The {}, please.",
    "What {} do you see?",
    "Give the {}.",
    "{}:",
)
_UNNAMED: Final = (
    "?",
    "Answer:",
    "Label:",
    "What is it?",
    "Tag?",
    "Your answer?",
    "And this one?",
    "Which one?",
    "What now?",
    "Label this.",
    "Go on.",
    "Next:",
    "Class?",
    "What would you say?",
    "Picture:",
    "Output:",
    "Which group?",
    "Now this.",
    "This?",
    "Category:",
)
_FORMS: Final = (
    "{}.",
    "It is {}.",
    "The {name} is {}.",
    "'{}'",
    "**{}**",
    "{name}: {}",
    "{name}={}",
    "<{name}>{}</{name}>",
    "- {}",
    "({})",
    "#{}",
    "Answer: {}",
    "{}!",
    "[{}]",
    "I see {}.",
    "* {}",
    "-> {}",
    "{} it is",
    "{} ({name})",
    "My answer is {}.",
    "`{}`",
    "= {}",
    "{};",
    "{} {}",
    "Clearly {}.",
    "{name} -> {}",
    "This one has {}.",
    "_{}_",
    "/{}/",
    "Looks {} to me.",
    "{}?",
    "Sure: {}",
    "{}, I think",
    "It's {}",
)


def _questions(attribute: str, named: bool, rng: Rng) -> tuple[str, ...]:
    """Return one to three wordings of a question."""
    count = int(rng.integers(1, 4))
    if not named:
        return tuple(pick(_UNNAMED, rng) for _ in range(count))
    texts = [pick(_QUESTIONS, rng).format(pick(NAMES[attribute], rng)) for _ in range(count)]
    return tuple(text[0].upper() + text[1:] if rng.random() < 0.9 else text for text in texts)


def _one_attribute(kind: str, rng: Rng) -> Convention:
    attribute = pick(KINDS[kind], rng)
    values = VALUES[attribute]
    drawn = rng.random()
    if drawn < 0.35:
        words: Sequence[str] = pick(list(LANGUAGES.values()), rng)[attribute]
    elif drawn < 0.55:
        words = values
    elif drawn < 0.75 and attribute in SYNONYMS:
        words = pick(SYNONYMS[attribute], rng)
        words = (*words, *words)[: max(len(values), len(words))]
    elif drawn < 0.85 and attribute in CLASSES:
        words = pick(CLASSES[attribute], rng)
    else:
        return _arbitrary(kind, rng)
    form = pick(_FORMS, rng) if rng.random() < 0.5 or words is values else "{}"
    if words is not values and rng.random() < 0.15:
        words = [word.capitalize() for word in words]
    named = rng.random() < 0.55
    questions, name = _questions(attribute, named, rng), pick(NAMES[attribute], rng)

    def ask(facts: Facts, rng: Rng) -> tuple[str, str]:
        word = words[values.index(facts[attribute])]
        return pick(questions, rng), form.replace("{name}", name).replace("{}", word)

    return Convention(kind, ask)


_SYLLABLE_TEXT = "ba do ri mu ke la to ni sa vo pe gi zu fa le no ti ra mo ku shi pla tro nek gol vim sut fen hax rop"
_SYLLABLES: Final = tuple(_SYLLABLE_TEXT.split())


def random_words(count: int, rng: Rng) -> list[str]:
    """Return distinct words without any relation to the values: common ones or invented ones."""
    if rng.random() < 0.6:
        return [str(word) for word in rng.choice(COMMON_WORDS, count, replace=False)]
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(pick(_SYLLABLES, rng) for _ in range(int(rng.integers(1, 4))))] = None
    return list(found)


def _arbitrary(kind: str, rng: Rng) -> Convention:
    attribute = pick(KINDS[kind], rng)
    words = random_words(len(VALUES[attribute]), rng)
    if rng.random() < 0.3:  # fewer answers than values
        few = random_words(2 if rng.random() < 0.6 else 3, rng)
        words = [pick(few, rng) for _ in words]
    questions = _questions(attribute, rng.random() < 0.6, rng)

    def ask(facts: Facts, rng: Rng) -> tuple[str, str]:
        return pick(questions, rng), words[VALUES[attribute].index(facts[attribute])]

    return Convention(kind, ask, arbitrary=True)


_PAIR_FORMS: Final = (
    "{0} {1}",
    "{0}, {1}",
    "{1} and {0}",
    "{0} ({1})",
    "a {0} {1}",
    "{1}: {0}",
    "{0}-{1}",
    "{0}; {1}",
    "both {0} and {1}",
    "{0} + {1}",
    "{0}|{1}",
)


def _two_attributes(rng: Rng) -> Convention:
    first, second = (str(name) for name in rng.choice(KINDS["scene"], 2, replace=False))
    table = VALUES if rng.random() < 0.6 else pick(list(LANGUAGES.values()), rng)
    form = pick(_PAIR_FORMS, rng)
    questions = _questions(first, False, rng)

    def ask(facts: Facts, rng: Rng) -> tuple[str, str]:
        words = [table[name][VALUES[name].index(facts[name])] for name in (first, second)]
        return pick(questions, rng), form.format(*words)

    return Convention("scene", ask)


_VERDICTS: Final = (
    ("yes", "no"),
    ("Yes.", "No."),
    ("true", "false"),
    ("ja", "nein"),
    ("oui", "non"),
    ("right", "wrong"),
    ("correct", "incorrect"),
    ("1", "0"),
    ("sure", "never"),
    ("Y", "N"),
    ("it does", "it doesn't"),
    ("match", "no match"),
    ("accept", "reject"),
    ("good", "bad"),
    ("+", "-"),
)


def _verdict(kind: str, rng: Rng) -> Convention:
    """Ask whether a value holds; answer with one of two words, sometimes the other way round."""
    attribute = pick(KINDS[kind], rng)
    values = VALUES[attribute]
    yes, no = pick(_VERDICTS, rng)
    if rng.random() < 0.25:
        yes, no = no, yes
    style = pick(
        ("Is it {}?", "{}?", "Is the answer {}?", "Does {} fit?", "Is {} right?", "Can you see {}?", "{}, is it?"), rng
    )

    def ask(facts: Facts, rng: Rng) -> tuple[str, str]:
        truth = facts[attribute]
        value = truth if rng.random() < 0.5 else pick([each for each in values if each != truth], rng)
        return style.format(value).capitalize(), yes if value == truth else no

    return Convention(kind, ask)


def _comparison(rng: Rng) -> Convention:
    """Compare the count, the size or the digit with a fixed or an asked value."""
    name = pick(("count", "size", "digit"), rng)
    order = VALUES[name]
    more, less = pick(
        (
            ("more", "less"),
            ("yes", "no"),
            ("over", "not over"),
            ("above", "below"),
            ("high", "low"),
            ("plus", "minus"),
            ("greater", "smaller"),
            ("true", "false"),
        ),
        rng,
    )
    limit = (
        pick((1, 3, 4), rng) - 1
        if name == "count"
        else pick((1, 2), rng) - 1
        if name == "size"
        else int(rng.integers(2, 8))
    )
    text = pick(("More than {}?", "Compare with {}.", "Over {}?", "{} or more?", "Above {}?"), rng)
    fixed = rng.random() < 0.7

    def ask(facts: Facts, rng: Rng) -> tuple[str, str]:
        asked = limit if fixed else int(rng.integers(len(order)))
        at = order.index(facts[name])
        over = at >= asked if "or more" in text else at > asked
        return text.format(order[asked]).capitalize(), more if over else less

    return Convention("digit" if name == "digit" else "scene", ask)


def _caption(kind: str, facts: Facts) -> str:
    if kind == "scene":
        plural = "s" if facts["count"] != "one" else ""
        shape = "crosses" if plural and facts["shape"] == "cross" else facts["shape"] + plural
        return f"{facts['count']} {facts['size']} {facts['colour']} {shape} on a {facts['background']} background"
    if kind == "digit":
        return f"the handwritten digit {facts['digit']}"
    return f"a {facts['colour']} {facts['shape']}" if kind == "shape" else {"photo": "a photograph"}.get(kind, "noise")


_DESCRIBE: Final = (
    "Describe the picture.",
    "What is in the picture?",
    "What do you see?",
    "Describe this image.",
    "Write a caption.",
    "What does the image show?",
)


def _plain(kind: str) -> Convention:
    """Every question is another one, in plain English; the answer needs no demonstration."""

    def ask(facts: Facts, rng: Rng) -> tuple[str, str]:
        if kind not in KINDS or rng.random() < 0.45:
            return pick(_DESCRIBE, rng), _caption(kind, facts)
        if kind == "shape" and rng.random() < 0.8:
            return easy_question(facts, rng)
        attribute = pick(KINDS[kind], rng)
        text = pick(("What is the {}?", "What {} is it?", "Which {}?", "What is the {} in the picture?"), rng)
        return text.format(pick(NAMES[attribute], rng)), facts[attribute]

    return Convention(kind, ask, plain=True)


_PRESENT: Final = ("is there a {}?", "is there a {} in the image?", "does the image contain a {}?", "is a {} present?")
_ABSENT: Final = (
    "is there not a {}?",
    "is there not a {} in the image?",
    "does the image not contain a {}?",
    "is no {} present?",
)


def easy_question(facts: Facts, rng: Rng) -> tuple[str, str]:
    """Ask a question in easy-vqa's manner about a plain shape."""
    if rng.random() < 0.3:
        if rng.random() < 0.5:
            return pick(("what color is the {}?", "what is the color of the {}?"), rng).format(
                pick(("shape", facts["shape"]), rng)
            ), facts["colour"]
        texts = (
            "what shape is in the image?",
            "what shape does the image contain?",
            "what shape is present?",
            f"what is the {facts['colour']} shape?",
        )
        return pick(texts, rng), facts["shape"]
    name = pick(("shape", "colour", "colour"), rng)
    truth = facts[name]
    value = truth if rng.random() < 0.5 else pick([each for each in VALUES[name] if each != truth], rng)
    absent = rng.random() < 0.5
    text = pick(_ABSENT if absent else _PRESENT, rng).format(value if name == "shape" else f"{value} shape")
    return text, "yes" if (value == truth) is not absent else "no"


def _text(rng: Rng) -> Convention:
    """Ask for pairs of words, without pictures."""
    name = pick(list(PAIRS), rng)
    text = pick(("{}", "{} ->", "What goes with {}?", "{}?", "Word: {}", "{}:"), rng)
    form = pick(("{}", "{}", "{}", "{}.", "It is {}."), rng)
    left = list(rng.permutation(len(PAIRS[name])))

    def ask(_: Facts, rng: Rng) -> tuple[str, str]:
        if not left:
            left.extend(rng.permutation(len(PAIRS[name])))
        given, wanted = PAIRS[name][left.pop()]
        return text.format(given), form.format(wanted)

    return Convention("text", ask)


def draw_convention(rng: Rng) -> Convention:
    """Draw a convention of the training mix."""
    kind = pick(("scene", "scene", "scene", "digit", "shape"), rng)
    families: list[tuple[float, Callable[[], Convention]]] = [
        (0.34, lambda: _one_attribute(kind, rng)),
        (0.22, lambda: _arbitrary(kind, rng)),
        (0.08, lambda: _two_attributes(rng)),
        (0.08, lambda: _verdict(kind, rng)),
        (0.06, lambda: _comparison(rng)),
        (
            0.14,
            lambda: _plain(pick(("scene", "scene", "digit", "shape", "shape", "shape", "photo", "noise"), rng)),
        ),
        (0.08, lambda: _text(rng)),
    ]
    weights = np.array([weight for weight, _ in families])
    return families[int(rng.choice(len(families), p=weights / weights.sum()))][1]()
