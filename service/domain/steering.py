"""How a request is steered if it names no vector, and why an answer was not steered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from vlibrary.domain.wire import Prompt


class Mode(StrEnum):
    """Steering without naming a vector."""

    AUTO = "auto"
    """Apply the best of the vectors that fit the query."""
    OFF = "off"
    """Answer with the base model."""


class SteeringReason(StrEnum):
    """Why no vector was applied: the `code` of `steering.reason` in answers."""

    OFF = "off"
    """The request switched steering off."""
    NO_VECTORS = "no_vectors"
    """The request's list of vectors is empty."""
    NO_MATCH = "no_match"
    """The library has no vector for this base model."""
    OTHER_EMBEDDER = "other_embedder"
    """The library has vectors for this base model, but none with task keys of the service's embedder."""
    BELOW_THRESHOLD = "below_threshold"
    """The best match, or one of its parts, scores below its threshold."""
    MISSING_PART = "missing_part"
    """The query has no text, and the training queries of the best match have one."""
    NO_LIFT = "no_lift"
    """The card of the best match reports no higher accuracy than without it."""
    AMBIGUOUS = "ambiguous"
    """Vectors of different names fit the query equally well."""
    NO_TEXT = "no_text"
    """The prompt is a list of tokens, and `auto` searches with a text."""
    OWN_DEMONSTRATIONS = "own_demonstrations"
    """The request brings its own demonstrations, to which `auto` adds a vector only with `with_demonstrations`."""


@dataclass(frozen=True)
class NotSteered:
    """A reason and its explanation for people."""

    code: SteeringReason
    detail: str


def has_demonstrations(prompt: Prompt) -> bool:
    """Return whether the prompt solves examples before its question.

    These are its demonstrations, or pairs of question and answer in its text. A text has such pairs if it ends with a
    label, such as "Answer:", that occurs before with an answer on the same line or the next; or if, with several
    images, its last line begins an earlier line ("Hue? red", then "Hue?").
    """
    if any(one.prompt.strip() or one.images for one in prompt.demonstrations):
        return True
    text = prompt.text.strip()
    label = re.search(r"(?:^|\s)([^\s:：]+[:：])$", text)
    if label and re.search(rf"(?:^|\s){re.escape(label[1])}[^\S\n]*\n?[^\S\n]*\S", text[: -len(label[1])]):
        return True
    *earlier, last = (line.strip() for line in text.split("\n"))
    return len(prompt.images) > 1 and any(line.startswith(f"{last} ") for line in earlier if last)
