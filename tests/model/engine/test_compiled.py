"""Compiled decode steps: equal answers, one compilation for all batch sizes, and a self-check at start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from tests.model import tiny
from tests.model.engine.test_inflight import LENGTHS, RecordedRequest, run
from tests.model.samples import PROMPTS, Mixed
from vlibrary.domain.errors import UnsupportedModel
from vlibrary.domain.wire import Decoding
from vlibrary.engine.inflight import InFlightEngine
from vlibrary.models.lvlm import Lvlm

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles


@pytest.fixture(scope="module")
def lvlm(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    """A model of its own, because other tests cannot use a compiled one."""
    return Lvlm.load(tiny.save(*tiny.llava(), tmp_path_factory.mktemp("compiled")))


def answers(lvlm: Lvlm, *, compiled: bool) -> list[Any]:
    requests = [
        RecordedRequest(lvlm, prompt, vector, Decoding(max_new_tokens=length))
        for prompt, vector, length in zip(PROMPTS, Mixed(lvlm).vectors, LENGTHS, strict=True)
    ]
    run(InFlightEngine(lvlm, compiled=compiled), requests, steps_between=1)
    return [one.generation for one in requests]


def test_compiled_steps_give_the_same_answers_with_few_compilations(lvlm: Lvlm) -> None:
    torch._dynamo.reset()
    counters.clear()
    assert answers(lvlm, compiled=True) == answers(lvlm, compiled=False)
    # One for several rows, one for a single row, each steered or not: far fewer than the tokens.
    assert 0 < counters["stats"]["unique_graphs"] <= 4


def test_a_compiled_model_without_its_hooks_is_refused(
    lvlm: Lvlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_hooks = Lvlm.load(tiny.save(*tiny.llava(), tmp_path))
    without_hooks.injector.close()
    monkeypatch.setattr(torch, "compile", lambda _forward, **_options: without_hooks.model.forward)
    with pytest.raises(UnsupportedModel, match="does not react"):
        InFlightEngine(lvlm, compiled=True)


def test_a_model_that_decodes_row_by_row_is_not_compiled(tmp_path: Path) -> None:
    mllama = Lvlm.load(tiny.save(*tiny.FAMILIES["mllama"](), tmp_path))
    with pytest.raises(UnsupportedModel, match="one row at a time"):
        InFlightEngine(mllama, compiled=True)
