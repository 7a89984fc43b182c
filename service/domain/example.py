"""One demonstration or test item: what is seen, what is asked, what is right."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A question about an image, with its answer.

    image: an encoded picture (PNG, JPEG or WebP bytes), never pixels, so that the value is cheap to keep and to send.
    """

    image: bytes
    question: str
    answer: str
