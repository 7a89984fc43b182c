"""Composition root of a worker: the only place that turns settings into models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import torch

from service.bundled import EMBEDDER_FOLDER, LVLM_FOLDER, LVLM_ID
from service.config import BUNDLED, Settings
from service.embedding import Embedder
from service.steering.lvlm import Lvlm, flush_denormals
from service.worker.local import LocalWorker

if TYPE_CHECKING:
    from service.domain.ports import Artifacts

log = structlog.get_logger(__name__)


def open_lvlm(settings: Settings) -> Lvlm:
    """The LVLM that the settings name, hooked and checked. Raises UnsupportedModel."""
    folder = LVLM_FOLDER if settings.lvlm == BUNDLED else settings.lvlm
    model_id = LVLM_ID if settings.lvlm == BUNDLED else settings.lvlm
    flush_denormals()
    # The bundled model is too small for threads to help, and threads do not take the flag over everywhere.
    threads = settings.threads or (1 if settings.lvlm == BUNDLED else 0)
    if threads:
        torch.set_num_threads(threads)
    lvlm = Lvlm.load(folder, device=settings.device, dtype=settings.dtype, model_id=model_id, slots=settings.slots)
    log.info("worker.lvlm_loaded", model=model_id, layers=lvlm.spec.layers, hidden_size=lvlm.spec.hidden_size)
    return lvlm


def open_embedder(settings: Settings) -> Embedder:
    """The query embedder that the settings name."""
    folder = EMBEDDER_FOLDER if settings.embedder == BUNDLED else settings.embedder
    return Embedder.load(folder, device=settings.device)


def open_worker(settings: Settings, artifacts: Artifacts) -> LocalWorker:
    """A worker on this process's device."""
    return LocalWorker(open_lvlm(settings), open_embedder(settings), artifacts)
