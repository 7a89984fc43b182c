"""The tasks that smol-llava is measured on: natural answer conventions, code words, and text without pictures.

None of the conventions is among those of training: other languages, forms, classes and words. What is asked never says
how to answer, so only demonstrations, or a vector, can.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

import numpy as np

from vlibrary.bundled.tasks import encode_png
from vlibrary.bundled.world import digits, scenes
from vlibrary.bundled.world.words import SCENE_VALUES, VALUES, name_values
from vlibrary.domain.example import Example

Facts = Mapping[str, str]
Rng = np.random.Generator
Split = Literal["train", "test"]
_STREAM: Final = {"train": 41, "test": 42}


@dataclass(frozen=True)
class PictureTask:
    """kind: what the pictures show, scene or digit. arbitrary: whether the answers are code words.

    ask: question and answer for what a picture shows.
    """

    name: str
    description: str
    kind: Literal["scene", "digit"]
    ask: Callable[[Facts, Rng], tuple[str, str]]
    arbitrary: bool = False


@dataclass(frozen=True)
class TextTask:
    """Pairs of a word and its answer, asked for without a picture."""

    name: str
    description: str
    pairs: Sequence[tuple[str, str]]


def _answers(attribute: str, words: str, questions: Sequence[str]) -> Callable[[Facts, Rng], tuple[str, str]]:
    """Ask for an attribute; answer with the word of its value. words: in the order of the values."""
    table = MappingProxyType(dict(zip(VALUES[attribute], words.split(", "), strict=True)))
    return lambda facts, rng: (questions[int(rng.integers(len(questions)))], table[facts[attribute]])


def _in_form(form: str, questions: Sequence[str]) -> Callable[[Facts, Rng], tuple[str, str]]:
    """Answer in a sentence or notation with $attribute in the place of values."""

    def ask(facts: Facts, rng: Rng) -> tuple[str, str]:
        answer = form
        for name, value in facts.items():
            answer = answer.replace(f"${name}", value)
        return questions[int(rng.integers(len(questions)))], answer

    return ask


def _upper(facts: Facts, rng: Rng) -> tuple[str, str]:
    return ("What is the color?", "Which color?")[int(rng.integers(2))], facts["colour"].upper()


def _more_than_two(facts: Facts, _: Rng) -> tuple[str, str]:
    return "How many are there?", "more than two" if facts["count"] in ("three", "four", "five") else "at most two"


def _denial(facts: Facts, rng: Rng) -> tuple[str, str]:
    names = SCENE_VALUES["shape"]
    truth = facts["shape"]
    asked = (
        truth if rng.random() < 0.5 else [name for name in names if name != truth][int(rng.integers(len(names) - 1))]
    )
    return f"Is this a {asked}?", f"it is a {asked}" if asked == truth else f"it is not a {asked}"


_COLOUR: Final = ("What is the color?", "Which color?")
_SHAPE: Final = ("What is the shape?", "Which shape?")
_LOOK: Final = ("Have a look.", "Please respond.")

NATURAL: Final[tuple[PictureTask, ...]] = (
    PictureTask(
        "colour-spanish",
        "The colour in Spanish.",
        "scene",
        _answers("colour", "rojo, verde, azul, amarillo, morado, marrón", _COLOUR),
    ),
    PictureTask(
        "shape-italian",
        "The shape in Italian.",
        "scene",
        _answers("shape", "cerchio, quadrato, triangolo, croce, anello, rombo", _SHAPE),
    ),
    PictureTask(
        "digit-spanish",
        "The digit in Spanish.",
        "digit",
        _answers(
            "digit",
            "cero, uno, dos, tres, cuatro, cinco, seis, siete, ocho, nueve",
            ("Which digit?", "What digit is it?"),
        ),
    ),
    PictureTask(
        "count-roman",
        "The count as a Roman numeral.",
        "scene",
        _answers("count", "I, II, III, IV, V", ("How many?", "What is the count?")),
    ),
    PictureTask("colour-upper", "The colour in capital letters.", "scene", _upper),
    PictureTask("colour-json", "The colour as JSON.", "scene", _in_form('{"color": "$colour"}', _COLOUR)),
    PictureTask(
        "shape-sentence", "The shape in a sentence.", "scene", _in_form("There is a $shape in this picture.", _SHAPE)
    ),
    PictureTask(
        "background-unnamed",
        "The background, which the question does not name.",
        "scene",
        _in_form("$background", _LOOK),
    ),
    PictureTask(
        "size-shape-unnamed",
        "Size and shape, which the question does not name.",
        "scene",
        _in_form("$size/$shape", _LOOK),
    ),
    PictureTask("count-compared", "Whether there are more than two objects.", "scene", _more_than_two),
    PictureTask(
        "shape-denied", "Whether it is the shape of the question, in a sentence with or without not.", "scene", _denial
    ),
    PictureTask(
        "colour-warmth",
        "Whether the colour is warm or cool.",
        "scene",
        _answers("colour", "warm, cool, cool, warm, cool, warm", _COLOUR),
    ),
    PictureTask(
        "colour-fruit",
        "A fruit or nut of that colour.",
        "scene",
        _answers("colour", "strawberry, lime, blueberry, banana, grape, chestnut", _LOOK),
    ),
    PictureTask(
        "parity-swedish",
        "Even or odd in Swedish.",
        "digit",
        _answers("parity", "jämnt, udda", ("Even or odd?", "What is the parity?")),
    ),
)
CODED: Final[tuple[PictureTask, ...]] = (
    PictureTask(
        "colour-code",
        "The colour in code words.",
        "scene",
        _answers("colour", "wug, lorp, bouba, nizz, fep, quon", _COLOUR),
        True,
    ),
    PictureTask(
        "shape-code",
        "The shape in code words.",
        "scene",
        _answers("shape", "dax, zaff, modi, thrum, kiki, plim", _SHAPE),
        True,
    ),
    PictureTask(
        "count-code",
        "The count in code words.",
        "scene",
        _answers("count", "blick, rask, vond, oxa, tiv", ("How many?", "What is the count?")),
        True,
    ),
    PictureTask(
        "parity-code",
        "Even or odd in code words.",
        "digit",
        _answers("parity", "skee, flom", ("Even or odd?", "What is the parity?")),
        True,
    ),
)


_PAIRS: Final = {
    "capital": """
France:Paris Japan:Tokyo Italy:Rome Spain:Madrid Germany:Berlin Russia:Moscow Egypt:Cairo Greece:Athens
Austria:Vienna Poland:Warsaw Portugal:Lisbon Ireland:Dublin Norway:Oslo Sweden:Stockholm Finland:Helsinki
Denmark:Copenhagen Hungary:Budapest Cuba:Havana Peru:Lima Chile:Santiago Kenya:Nairobi Iraq:Baghdad Iran:Tehran
Thailand:Bangkok Vietnam:Hanoi China:Beijing Canada:Ottawa Turkey:Ankara Ukraine:Kyiv Belgium:Brussels
Colombia:Bogotá Venezuela:Caracas Lebanon:Beirut Syria:Damascus Nepal:Kathmandu Indonesia:Jakarta Philippines:Manila
Romania:Bucharest Bulgaria:Sofia Serbia:Belgrade
""",
    "antonym": """
hot:cold big:small up:down fast:slow rich:poor old:young hard:soft light:dark high:low open:closed full:empty
happy:sad strong:weak wet:dry early:late good:bad long:short thick:thin right:wrong true:false near:far left:right
inside:outside first:last clean:dirty loud:quiet deep:shallow wide:narrow heavy:light sharp:dull sweet:sour
day:night black:white hate:love buy:sell win:lose start:end push:pull above:below before:after
""",
    "past": """
go:went sing:sang eat:ate run:ran see:saw take:took give:gave write:wrote drive:drove speak:spoke break:broke
buy:bought think:thought bring:brought catch:caught teach:taught fly:flew know:knew grow:grew draw:drew swim:swam
drink:drank begin:began find:found keep:kept sleep:slept feel:felt leave:left meet:met win:won sit:sat stand:stood
tell:told sell:sold hear:heard make:made build:built send:sent lose:lost fall:fell
""",
    "plural": """
cat:cats dog:dogs child:children man:men woman:women mouse:mice foot:feet tooth:teeth goose:geese city:cities
baby:babies story:stories box:boxes bus:buses dish:dishes church:churches leaf:leaves wolf:wolves knife:knives
wife:wives life:lives hero:heroes potato:potatoes tomato:tomatoes book:books tree:trees car:cars house:houses
party:parties fox:foxes watch:watches glass:glasses shelf:shelves half:halves key:keys day:days lady:ladies
fly:flies class:classes bird:birds
""",
    "translation": """
dog:perro cat:gato house:casa water:agua book:libro sun:sol moon:luna day:día night:noche friend:amigo tree:árbol
flower:flor table:mesa door:puerta window:ventana car:coche city:ciudad street:calle school:escuela world:mundo
king:rey queen:reina man:hombre woman:mujer boy:niño girl:niña fish:pez bird:pájaro horse:caballo bread:pan
milk:leche fire:fuego earth:tierra hand:mano head:cabeza eye:ojo heart:corazón love:amor life:vida time:tiempo
""",
}


def _text_task(name: str, description: str) -> TextTask:
    split = (pair.partition(":") for pair in _PAIRS[name].split())
    return TextTask(name, description, tuple((left, right) for left, _, right in split))


TEXTUAL: Final[tuple[TextTask, ...]] = (
    _text_task("capital", "The capital of a country."),
    _text_task("antonym", "The opposite of an adjective."),
    _text_task("past", "The past tense of a verb."),
    _text_task("plural", "The plural of a noun."),
    _text_task("translation", "A noun in Spanish."),
)


def show(
    kind: Literal["scene", "digit"], count: int, split: Split, rng: Rng
) -> tuple[list[bytes], list[dict[str, str]]]:
    """Draw pictures with uniform attributes; return them as PNG, and what they show. The splits share no digit scan."""
    pixels, values = scenes.draw(count, rng) if kind == "scene" else digits.draw(count, split, rng)
    return [encode_png(picture) for picture in pixels], name_values(values)


def examples(task: PictureTask, split: Split, count: int, seed: int) -> list[Example]:
    """Return `count` examples of a task; the same arguments give the same list."""
    rng = np.random.default_rng([_STREAM[split], zlib.crc32(task.name.encode()), seed])
    pictures, facts = show(task.kind, count, split, rng)
    return [Example(picture, *task.ask(shown, rng)) for picture, shown in zip(pictures, facts, strict=True)]
