"""Results are short enough to be read in a notebook."""

from __future__ import annotations

from vlibrary.schemas.generate import GenerateOut
from vlibrary.schemas.vectors import MatchOut

VECTOR = {"id": "01K9", "name": "colour", "version": 1, "sha256": "0" * 64}


def test_an_answer_shows_its_text_and_what_steered_it() -> None:
    answer = GenerateOut.model_validate(
        {
            "text": "lorp",
            "finish_reason": "stop",
            "model": "m",
            "steering": {"applied": [VECTOR | {"score": 0.9712345600128174, "strength": 1.0}], "reason": None},
            "usage": {"prompt_tokens": 11, "completion_tokens": 2},
            "timings": {"total_s": 0.03},
        }
    )
    assert repr(answer) == (
        "GenerateOut(text='lorp', finish_reason='stop', steering=SteeringOut(applied=[AppliedOut(id='01K9', "
        "name='colour', version=1, score=0.9712, strength=1.0)], reason=None))"
    )


def test_a_match_shows_its_score_rounded() -> None:
    match = MatchOut.model_validate(
        VECTOR
        | {
            "description": "d",
            "score": 0.9712345600128174,
            "parts": {"image": None, "text": 0.97},
            "probability": None,
            "threshold": 0.5,
            "accepted": True,
            "reason": None,
            "unknown": None,
        }
    )
    assert "score=0.9712" in repr(match)
    assert "sha256" not in repr(match)
