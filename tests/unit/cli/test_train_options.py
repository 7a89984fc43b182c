"""The options of `vlibrary train` as settings of the method, and registration of vectors that do not help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.memory.worker import MODEL
from tests.support.samples import artifact
from vlibrary.cli.train import read_config
from vlibrary.cli.vectors import register
from vlibrary.domain.errors import InvalidInput
from vlibrary.methods.m2iv.config import M2ivConfig


def test_options_become_settings() -> None:
    chosen = {"shots": 4, "steps": None}
    config = read_config(
        chosen,
        ["mimicry=1", "synergistic=0.1"],
        ["contexts=4", "checkpointing=true", "norm_cap=0.5", "queries=none", "synergy=layers"],
    )
    assert config == M2ivConfig(
        shots=4,
        contexts=4,
        checkpointing=True,
        norm_cap=0.5,
        weights={"mimicry": 1.0, "synergistic": 0.1},
        synergy="layers",
    )


@pytest.mark.parametrize(
    ("losses", "overrides", "problem"),
    [
        ([], ["contexts"], "--set 'contexts' is not NAME=VALUE"),
        ([], ["=4"], "--set '=4' is not NAME=VALUE"),
        ([], ["context=4"], "--set has the unknown setting 'context'"),
        ([], ["shots=4"], "--set has the unknown setting 'shots'"),
        ([], ["weights=1"], "--set has the unknown setting 'weights'"),
        ([], ["contexts=many"], "--set contexts is 'many': "),
        ([], ["contexts=none"], "--set contexts is None: "),
        ([], ["contexts=0"], "Invalid contexts 0"),
        ([], ["norm_cap=-1"], "Invalid norm_cap -1.0"),
        (["mimicry=much"], [], "--loss mimicry is 'much': "),
        (["kindness=1"], [], "Unknown loss 'kindness'"),
        (["mimicry=nan"], [], "Invalid loss weights"),
    ],
)
def test_an_invalid_option_is_named(losses: list[str], overrides: list[str], problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_config({"shots": None, "steps": None}, losses, overrides)
    assert problem in caught.value.detail
    assert caught.value.cure


@given(text=st.text(max_size=30))
def test_no_text_of_an_option_crashes(text: str) -> None:
    for losses, overrides in (([text], []), ([], [text]), ([], [f"contexts={text}"])):
        try:
            read_config({}, losses, overrides)
        except InvalidInput as error:
            assert error.cure  # noqa: PT017


def test_a_vector_that_does_not_help_is_not_sent_to_the_service(tmp_path: Path) -> None:
    (tmp_path / "colour.safetensors").write_bytes(artifact(MODEL))
    card = {"name": "colour", "results": {"zero_shot": 0.25, "steered": 0.25}}
    (tmp_path / "colour.card.json").write_text(json.dumps(card))
    with pytest.raises(InvalidInput, match=r"colour is no better than the model without it: 25.0% against 25.0%"):
        register(tmp_path / "colour.safetensors", url="http://127.0.0.1:1")
