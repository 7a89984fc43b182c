"""The vocabulary of the bundled world: attribute values, their names in three languages, code words and nouns."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

SCENE_VALUES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "shape": ("circle", "square", "triangle", "cross", "ring", "diamond"),
        "colour": ("red", "green", "blue", "yellow", "purple", "brown"),
        "size": ("small", "medium", "large"),
        "count": ("one", "two", "three", "four", "five"),
        "position": ("top", "bottom", "left", "right", "corner"),
        "background": ("white", "grey", "black", "pink", "mint", "sand"),
    }
)
DIGIT_VALUES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "digit": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        "parity": ("even", "odd"),
        "half": ("low", "high"),
    }
)
VALUES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({**SCENE_VALUES, **DIGIT_VALUES})

GERMAN: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "shape": ("Kreis", "Quadrat", "Dreieck", "Kreuz", "Ring", "Raute"),
        "colour": ("rot", "grün", "blau", "gelb", "lila", "braun"),
        "size": ("klein", "mittel", "groß"),
        "count": ("eins", "zwei", "drei", "vier", "fünf"),
        "position": ("oben", "unten", "links", "rechts", "Ecke"),
        "background": ("weiß", "grau", "schwarz", "rosa", "Minze", "Sand"),
        "digit": ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"),
        "parity": ("gerade", "ungerade"),
        "half": ("niedrig", "hoch"),
    }
)
FRENCH: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "shape": ("cercle", "carré", "triangle", "croix", "anneau", "losange"),
        "colour": ("rouge", "vert", "bleu", "jaune", "violet", "marron"),
        "size": ("petit", "moyen", "grand"),
        "count": ("un", "deux", "trois", "quatre", "cinq"),
        "position": ("haut", "bas", "gauche", "droite", "coin"),
        "background": ("blanc", "gris", "noir", "rose", "menthe", "sable"),
        "digit": ("zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"),
        "parity": ("pair", "impair"),
        "half": ("faible", "fort"),
    }
)
LANGUAGES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {"english": VALUES, "german": GERMAN, "french": FRENCH}
)

_CODE_WORDS = (
    "wug dax blick fep toma zup kiki bouba gavagai modi lorp nizz quave rask sib tiv vond yelp zaff brox crim drell "
    "flom glay hesk jorn krel lumo mib norv oxa plim quon ruv skee thrum ulva vask wib yorn zent"
)
CODE_WORDS: Final = tuple(_CODE_WORDS.split())

_NEUTRAL_NOUNS = (
    "club guild realm crew port clan team league house tribe order faction circuit band lodge union camp branch "
    "family school squad unit lot class kind type sort tag label name sign mark code token badge title"
)
NEUTRAL_NOUNS: Final = tuple(_NEUTRAL_NOUNS.split())
EXPLICIT_NOUNS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "shape": ("shape", "form"),
        "colour": ("colour", "hue"),
        "size": ("size", "scale"),
        "count": ("count", "number"),
        "position": ("place", "spot"),
        "background": ("background", "backdrop"),
        "digit": ("digit", "numeral"),
        "parity": ("parity", "evenness"),
        "half": ("half", "range"),
    }
)


def domain_of(attribute: str) -> str:
    """Return the kind of image, `scene` or `digit`, that shows an attribute."""
    return "scene" if attribute in SCENE_VALUES else "digit"


def name_values(attributes: Mapping[str, NDArray[np.int64]]) -> list[dict[str, str]]:
    """Return what each image shows, such as {"colour": "red"}, from value indices [N] per attribute."""
    named = ([VALUES[name][at] for at in indices.tolist()] for name, indices in attributes.items())
    return [dict(zip(attributes, values, strict=True)) for values in zip(*named, strict=True)]


def wordings(noun: str) -> tuple[str, ...]:
    """Return the phrasings of the question about a noun."""
    return (f"Which {noun}?", f"Name the {noun}.", f"{noun.capitalize()}?")
