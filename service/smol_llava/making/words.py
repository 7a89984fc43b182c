"""Words for what pictures show, by language, and the other ways of naming it that training uses."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from vlibrary.bundled.world.words import DIGIT_VALUES, FRENCH, GERMAN, SCENE_VALUES

VALUES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        **SCENE_VALUES,
        **DIGIT_VALUES,
        "shape": (*SCENE_VALUES["shape"], "rectangle"),
        "colour": (*SCENE_VALUES["colour"], "gray", "black", "teal"),
    }
)
_GERMAN: Final = {
    **GERMAN,
    "shape": (*GERMAN["shape"], "Rechteck"),
    "colour": (*GERMAN["colour"], "grau", "schwarz", "türkis"),
}
_FRENCH: Final = {
    **FRENCH,
    "shape": (*FRENCH["shape"], "rectangle"),
    "colour": (*FRENCH["colour"], "gris", "noir", "turquoise"),
}
_DUTCH: Final = {
    "shape": ("cirkel", "vierkant", "driehoek", "kruis", "ring", "ruit", "rechthoek"),
    "colour": ("rood", "groen", "blauw", "geel", "paars", "bruin", "grijs", "zwart", "turkoois"),
    "size": ("klein", "middel", "groot"),
    "count": ("een", "twee", "drie", "vier", "vijf"),
    "position": ("boven", "onder", "links", "rechts", "hoek"),
    "background": ("wit", "grijs", "zwart", "roze", "mint", "zand"),
    "digit": ("nul", "een", "twee", "drie", "vier", "vijf", "zes", "zeven", "acht", "negen"),
    "parity": ("even", "oneven"),
    "half": ("laag", "hoog"),
}
_PORTUGUESE: Final = {
    "shape": ("círculo", "quadrado", "triângulo", "cruz", "anel", "losango", "retângulo"),
    "colour": ("vermelho", "verde", "azul", "amarelo", "roxo", "castanho", "cinza", "preto", "turquesa"),
    "size": ("pequeno", "médio", "grande"),
    "count": ("um", "dois", "três", "quatro", "cinco"),
    "position": ("cima", "baixo", "esquerda", "direita", "canto"),
    "background": ("branco", "cinza", "preto", "rosa", "menta", "areia"),
    "digit": ("zero", "um", "dois", "três", "quatro", "cinco", "seis", "sete", "oito", "nove"),
    "parity": ("par", "ímpar"),
    "half": ("baixo", "alto"),
}
# The languages of training. Spanish, Italian and Swedish are left for evaluation.
LANGUAGES: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {"german": _GERMAN, "french": _FRENCH, "dutch": _DUTCH, "portuguese": _PORTUGUESE}
)
# Other English names, one tuple per naming.
SYNONYMS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = MappingProxyType(
    {
        "shape": (
            ("disc", "box", "pyramid", "plus", "hoop", "rhombus", "bar"),
            ("wheel", "window", "roof", "star", "donut", "kite", "door"),
            ("round", "boxy", "pointed", "crossed", "hollow", "tilted", "long"),
        ),
        "colour": (
            ("scarlet", "olive", "indigo", "amber", "plum", "tan", "silver", "ebony", "turquoise"),
            ("rose", "leaf", "ocean", "sun", "iris", "wood", "stone", "coal", "lagoon"),
            ("fire", "forest", "sea", "sand", "wine", "earth", "ash", "night", "jade"),
        ),
        "size": (
            ("little", "middle", "big"),
            ("tiny", "normal", "huge"),
            ("S", "M", "L"),
            ("mouse", "dog", "elephant"),
        ),
        "count": (
            ("1", "2", "3", "4", "5"),
            ("single", "pair", "trio", "quartet", "quintet"),
            ("A", "B", "C", "D", "E"),
        ),
        "position": (
            ("above", "below", "west", "east", "edge"),
            ("up", "down", "L", "R", "C"),
            ("high", "low", "left side", "right side", "in a corner"),
        ),
        "background": (
            ("snow", "cloud", "night", "blush", "lime", "beach"),
            ("pale", "dull", "dark", "rosy", "fresh", "warm"),
        ),
        "digit": (
            tuple("0123456789"),
            tuple("ABCDEFGHIJ"),
            ("none", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
        ),
        "parity": (("pair", "single"), ("divisible", "indivisible"), ("0", "1")),
        "half": (("small", "big"), ("bottom", "top"), ("below five", "five or more")),
    }
)
# Coarser classes that people use: the class of each value.
CLASSES: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = MappingProxyType(
    {
        "shape": (
            ("round", "angular", "angular", "angular", "round", "angular", "angular"),
            (
                "no corners",
                "four corners",
                "three corners",
                "many corners",
                "no corners",
                "four corners",
                "four corners",
            ),
        ),
        "count": (
            ("few", "few", "some", "many", "many"),
            ("odd", "even", "odd", "even", "odd"),
            ("one", "more", "more", "more", "more"),
        ),
        "position": (("vertical", "vertical", "side", "side", "corner"),),
        "background": (("bright", "dim", "dark", "bright", "bright", "bright"),),
        "digit": (("small", "small", "small", "small", "middle", "middle", "middle", "big", "big", "big"),),
        "size": (("not big", "not big", "big"), ("small", "not small", "not small")),
    }
)
NAMES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "shape": ("shape", "form", "figure"),
        "colour": ("color", "colour", "shade"),
        "size": ("size",),
        "count": ("count", "number", "amount"),
        "position": ("place of the dot", "dot's place", "position"),
        "background": ("background", "ground color", "paper"),
        "digit": ("digit", "number", "numeral"),
        "parity": ("parity", "kind of number"),
        "half": ("half", "range"),
    }
)
_COMMON = """
apple river stone cloud table horse piano garden window silver winter summer market pepper bottle ticket rabbit
castle bridge candle dragon engine forest guitar hammer island jacket kitten ladder magnet needle orange pencil
pocket puzzle rocket saddle school shadow spider spring square station street sugar temple thunder tiger tower train
tunnel turtle valley velvet violin wagon wallet water whale wheat whistle wolf wonder yard zebra alpha beta gamma
delta echo fox golf hotel india juliet kilo lima mike november oscar papa quebec romeo sierra tango uniform victor
whisky yankee zulu monday tuesday friday sunday april may june july august london paris rome berlin tokyo madrid
cairo oslo lion bear eagle shark mouse snake goose sheep camel panda bread cheese butter lemon mango peach cherry
onion potato tomato rice bean soup coffee tea milk juice doctor lawyer farmer baker sailor pilot nurse judge actor
singer happy angry tired brave clever gentle quiet funny lucky proud run jump swim write read sing dance cook drive
sleep north south east west spoon fork knife plate glass chair desk lamp clock phone radio camera paper brush paint
"""
COMMON_WORDS: Final = tuple(_COMMON.split())
# Relations between words, for episodes without pictures. None of them is one that evaluation uses.
_PAIRS = """
comparative big:bigger small:smaller tall:taller short:shorter fast:faster slow:slower old:older young:younger
warm:warmer cold:colder rich:richer poor:poorer hard:harder soft:softer long:longer deep:deeper high:higher
low:lower clean:cleaner dark:darker light:lighter nice:nicer safe:safer wide:wider
language France:French Germany:German Spain:Spanish Italy:Italian Japan:Japanese China:Chinese Russia:Russian
Portugal:Portuguese Greece:Greek Sweden:Swedish Norway:Norwegian Denmark:Danish Finland:Finnish Poland:Polish
Turkey:Turkish Hungary:Hungarian Korea:Korean Vietnam:Vietnamese Thailand:Thai Netherlands:Dutch
young dog:puppy cat:kitten cow:calf sheep:lamb horse:foal pig:piglet goose:gosling duck:duckling chicken:chick
bear:cub lion:cub deer:fawn goat:kid kangaroo:joey swan:cygnet frog:tadpole eagle:eaglet fox:kit owl:owlet seal:pup
numeral one:1 two:2 three:3 four:4 five:5 six:6 seven:7 eight:8 nine:9 ten:10 eleven:11 twelve:12 thirteen:13
fourteen:14 fifteen:15 sixteen:16 seventeen:17 eighteen:18 nineteen:19 twenty:20
kind rose:flower oak:tree salmon:fish eagle:bird ant:insect hammer:tool piano:instrument apple:fruit
carrot:vegetable shirt:clothing chair:furniture tennis:sport gold:metal red:color coffee:drink bus:vehicle
tulip:flower trout:fish sparrow:bird saw:tool violin:instrument banana:fruit onion:vegetable jacket:clothing
table:furniture football:sport iron:metal blue:color tea:drink train:vehicle
gender king:queen man:woman boy:girl father:mother son:daughter brother:sister uncle:aunt husband:wife
actor:actress prince:princess waiter:waitress grandfather:grandmother nephew:niece host:hostess lion:lioness
bull:cow rooster:hen he:she
place teacher:school doctor:hospital chef:kitchen farmer:farm judge:court pilot:airplane sailor:ship soldier:army
priest:church actor:theater waiter:restaurant librarian:library scientist:laboratory painter:studio banker:bank
miner:mine guard:prison student:university
maker bee:honey cow:milk hen:egg sheep:wool baker:bread author:book poet:poem tailor:suit brewer:beer potter:pot
spider:web composer:music painter:painting sculptor:statue tree:fruit cloud:rain
"""


def _read_pairs(text: str) -> dict[str, tuple[tuple[str, str], ...]]:
    """Read relations: the name of one, then its pairs."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word in text.split():
        left, colon, right = word.partition(":")
        if colon:
            found[next(reversed(found))].append((left, right))
        else:
            found[left] = []
    return {name: tuple(pairs) for name, pairs in found.items()}


PAIRS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = MappingProxyType(_read_pairs(_PAIRS))
