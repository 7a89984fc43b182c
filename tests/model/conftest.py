"""Every supported family as a tiny random model, and the bundled model where its weights are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.model import tiny
from tests.model.worker_setup import clip_embedder as clip_embedder
from tests.model.worker_setup import open_worker as open_worker
from tests.support import torchvision_shim
from vlibrary.bundled import LVLM_FOLDER
from vlibrary.models.lvlm import Lvlm

BUNDLED = pytest.param(
    "bundled",
    marks=pytest.mark.skipif(
        not (LVLM_FOLDER / "config.json").exists(), reason="the bundled weights are not installed"
    ),
)


NEEDS_TORCHVISION = pytest.mark.skipif(
    not torchvision_shim.available(), reason="this family's processor needs torchvision"
)
# `make test-gpu` sets it.
DEVICE = os.environ.get("VLIBRARY_TEST_DEVICE", "cpu")

FAMILIES = [
    pytest.param(name, marks=NEEDS_TORCHVISION if name in tiny.WITH_TORCHVISION else ()) for name in tiny.FAMILIES
]


@pytest.fixture(scope="session", params=[*FAMILIES, BUNDLED])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model of each family."""
    if request.param == "bundled":
        return LVLM_FOLDER
    return tiny.save(*tiny.FAMILIES[request.param](), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def lvlm(folder: Path) -> Lvlm:
    """The loaded model in float32; tests leave it as they found it."""
    return Lvlm.load(folder, device=DEVICE)


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Lvlm:
    """One family, for tests that do not depend on the family."""
    return Lvlm.load(tiny.save(*tiny.llava(), tmp_path_factory.mktemp("one")), device=DEVICE)


@pytest.fixture(autouse=True, scope="module")
def _restore_denormals() -> Iterator[None]:
    """Opening a worker flushes denormals for the whole thread; hypothesis refuses to run in such a thread."""
    yield
    torch.set_flush_denormal(False)
