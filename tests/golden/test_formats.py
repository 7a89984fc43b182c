"""Released formats stay readable: golden files that are never rewritten, and their content."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlibrary.domain.vector import Edit, ModelSpec, NormRule, Positions, Site, SteeringVector
from vlibrary.formats.artifact import decode, encode, sha256_of

FORMAT_1 = Path(__file__).parent / "format-1.safetensors"
SHA256 = "de4a4fafcaa85e4185044d937da71022374bae8777cf0e901510332d766bb8fe"


def written_in_format_1() -> SteeringVector:
    """Every feature of format 1: three sites, a gain, positions, a norm rule, a nested record, letters of all kinds."""
    counted = np.arange(12, dtype=np.float32).reshape(3, 4)
    halves = np.array([0.5, -1, 2], np.float32)
    return SteeringVector(
        model=ModelSpec("acme/llava-tiny", "0123456789abcdef" * 4, "LlavaForConditionalGeneration", 3, 4),
        edits={
            Site.ATTENTION: Edit(counted, halves),
            Site.MLP: Edit(-counted / np.float32(3), np.ones(3, np.float32), gain=np.array([1, 0.25, 0], np.float32)),
            Site.LAYER: Edit(np.zeros((3, 4), np.float32), np.zeros(3, np.float32)),
        },
        method="m2iv",
        positions=Positions.LAST,
        norm=NormRule.PRESERVE,
        training={"shots": 16, "seed": 0, "losses": [1.5, 0.25], "data": {"name": "naïve ☃", "digest": None}},
    )


def test_format_1_is_decoded_as_before() -> None:
    data = FORMAT_1.read_bytes()
    assert sha256_of(data) == SHA256, "golden files are never rewritten: add one for a new format"
    found, expected = decode(data), written_in_format_1()
    assert found == expected
    assert (found.model, found.method, dict(found.training)) == (expected.model, "m2iv", dict(expected.training))
    for site in Site:
        for part in ("vectors", "scale", "gain"):
            mine, theirs = getattr(found.edits[site], part), getattr(expected.edits[site], part)
            assert (mine is None) == (theirs is None)
            assert mine is None or np.array_equal(mine, theirs)


def test_encode_still_writes_format_1() -> None:
    assert encode(written_in_format_1()) == FORMAT_1.read_bytes()
