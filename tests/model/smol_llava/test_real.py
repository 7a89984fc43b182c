"""smol-llava itself, assembled from the registry; `make test-smol` runs these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlibrary.cli.demo.subject import smol_llava
from vlibrary.config import Settings
from vlibrary.domain.vector import check_applicable
from vlibrary.domain.wire import Prompt
from vlibrary.engine.inflight import Budget, InFlightEngine
from vlibrary.engine.self_check import check_decoder
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import generate_answers, icl_accuracy, steered_accuracy
from vlibrary.formats.artifact import decode
from vlibrary.models.lvlm import Lvlm, fast_dtype
from vlibrary.models.model_cache import find_damage
from vlibrary.smol_llava import MODEL_ID, VECTORS
from vlibrary.worker.bootstrap import find_lvlm, open_lvlm

pytestmark = [pytest.mark.smol, pytest.mark.timeout(1800)]
SETTINGS = Settings(lvlm="smol-llava", dtype=fast_dtype())
TASKS = {task.name: task for task in smol_llava().tasks}


@pytest.fixture(scope="module")
def lvlm() -> Lvlm:
    return open_lvlm(SETTINGS)


def test_the_assembled_folder_is_whole() -> None:
    folder, name = find_lvlm(SETTINGS)
    assert find_damage(Path(folder)) is None
    assert name == MODEL_ID


def test_the_decoder_still_knows_what_it_was_pretrained_on(lvlm: Lvlm) -> None:
    (answer,) = generate_answers(StaticGenerator(lvlm), [(Prompt("What is the capital of France?"), None)])
    assert "Paris" in answer


def test_the_running_batch_computes_what_the_model_does(lvlm: Lvlm) -> None:
    budget = Budget(rows=2, waiting=1, columns=4096, prefill=2048, feature_bytes=2**20)
    check_decoder(lvlm, InFlightEngine(lvlm, budget).decoder)


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_a_shipped_vector_raises_the_accuracy_on_unseen_pictures(lvlm: Lvlm, path: Path) -> None:
    vector = decode(path.read_bytes())
    check_applicable(vector, lvlm.spec)
    queries = smol_llava().draw(TASKS[path.stem], "test", 20, 1)
    engine = StaticGenerator(lvlm)
    assert steered_accuracy(engine, queries, vector) >= icl_accuracy(engine, queries, (), 0, seed=0) + 0.3
