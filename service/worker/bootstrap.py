"""Composition root of a worker: the only module that opens models from settings."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import torch
from prometheus_client import CollectorRegistry, ProcessCollector

from vlibrary.adapters.artifacts.open import open_artifacts
from vlibrary.bundled import EMBEDDER_FOLDER, EMBEDDER_ID, LVLM_FOLDER, LVLM_ID
from vlibrary.config import BUNDLED, SMOL_LLAVA, Settings
from vlibrary.domain.errors import InvalidSetting
from vlibrary.engine.inflight import Budget, InFlightEngine
from vlibrary.engine.request import Engine
from vlibrary.engine.self_check import check_decoder
from vlibrary.engine.static import StaticBatchEngine
from vlibrary.http_common import is_loopback
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm, flush_denormals
from vlibrary.models.model_cache import ModelCache
from vlibrary.smol_llava import MODEL_ID
from vlibrary.smol_llava.assemble import RECIPE, assemble
from vlibrary.worker.app import create_app
from vlibrary.worker.host import Host
from vlibrary.worker.local import LocalWorker
from vlibrary.worker.server import WorkerServer

if TYPE_CHECKING:
    from vlibrary.domain.ports.artifacts import Artifacts

log = structlog.get_logger(__name__)

STAGE_LOG_S = 10.0
_MODEL_CURE = "Use the folder of a Hugging Face model, the id of one on a hub, bundled or smol-llava."


def open_lvlm(settings: Settings) -> Lvlm:
    """Load and check the LVLM that the settings name. Raises UnsupportedModel.

    It is served under VLIBRARY_MODEL_NAME; by default under the id of the bundled model, the hub id, or the last name
    of the folder, never under a path. The name is for people: vectors belong to a model by its fingerprint, so one that
    was trained from the same weights under another name is found and applied all the same.
    """
    _check_device(settings.device)
    _check_model("VLIBRARY_LVLM", settings.lvlm, (BUNDLED, SMOL_LLAVA))
    folder, model_id = find_lvlm(settings)
    flush_denormals()
    # The bundled model is too small to gain from threads, and new threads may not inherit the flag.
    threads = settings.threads or (1 if settings.lvlm == BUNDLED else 0)
    if threads:
        torch.set_num_threads(threads)
    with _naming_setting("VLIBRARY_LVLM", settings.lvlm):
        lvlm = Lvlm.load(
            folder,
            device=settings.device,
            dtype=settings.dtype,
            model_id=settings.model_name or model_id,
            slots=settings.slots,
            image_formats=settings.image_formats,
        )
    log.info("worker.lvlm_loaded", model=lvlm.spec.model_id, layers=lvlm.spec.layers, hidden_size=lvlm.spec.hidden_size)
    return lvlm


def find_lvlm(settings: Settings) -> tuple[str | Path, str | None]:
    """Return the LVLM's folder or hub id, and its own name if it has one; assemble it first if need be.

    Raises ModelUnavailable if it cannot be assembled.
    """
    if settings.lvlm == BUNDLED:
        return LVLM_FOLDER, LVLM_ID
    if settings.lvlm == SMOL_LLAVA:
        cache = ModelCache(settings.models_cache)
        return assemble(RECIPE, cache, report=_StageLog(), notify=log.warning), MODEL_ID
    return settings.lvlm, None


class _StageLog:
    """Logs the stages of an assembly, and one line every STAGE_LOG_S within a stage."""

    def __init__(self) -> None:
        self._stage = ""
        self._due = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage or time.monotonic() >= self._due:
            log.info("models.assembling", model=RECIPE.name, stage=stage, percent=100 * done // total)
            self._stage, self._due = stage, time.monotonic() + STAGE_LOG_S


def open_embedder(settings: Settings) -> Embedder:
    """Load the query embedder that the settings name."""
    bundled = settings.embedder == BUNDLED
    if bundled and settings.lvlm not in (BUNDLED, SMOL_LLAVA):
        log.warning(
            "worker.bundled_embedder",
            lvlm=settings.lvlm,
            detail="The bundled embedder was made for drawn scenes, digits and short questions. For other images and "
            "texts, set VLIBRARY_EMBEDDER to a CLIP or SigLIP model.",
        )
    _check_model("VLIBRARY_EMBEDDER", settings.embedder, (BUNDLED,))
    with _naming_setting("VLIBRARY_EMBEDDER", settings.embedder):
        return Embedder.load(
            EMBEDDER_FOLDER if bundled else settings.embedder,
            device=settings.device,
            embedder_id=EMBEDDER_ID if bundled else None,
            cache_bytes=settings.embedding_cache_mb * 2**20,
            image_formats=settings.image_formats,
        )


def _check_device(name: str) -> None:
    """Raise InvalidSetting if torch has no such device here."""
    device = torch.device(name)
    if device.type == "cpu":
        return
    module = getattr(torch, device.type)
    count = module.device_count() if module.is_available() else 0
    if (device.index or 0) >= count:
        has = f"{count} of this type" if count else "none of this type"
        raise InvalidSetting(
            f"VLIBRARY_DEVICE is {name!r}, but torch {torch.__version__} finds {has}.",
            "Use cpu, or install the driver and a build of torch for the device.",
        )


def _check_model(variable: str, value: str, names: Sequence[str]) -> None:
    """Raise InvalidSetting for a missing folder or a misspelled name; a hub's id begins with a letter or digit."""
    if value in names or Path(value).is_dir():
        return
    if value.startswith(("/", ".", "~")):
        raise InvalidSetting(f"{variable} is {value!r}, which is not a folder.", _MODEL_CURE)
    # Without this check, the hub would be asked for it, without a network for minutes.
    if near := get_close_matches(value.lower(), names, n=1, cutoff=0.8):
        raise InvalidSetting(
            f"{variable} is {value!r}, which is neither a folder nor a model that comes with VLibrary.",
            f"Did you mean {near[0]}? The id of a model on a hub has a slash, as in owner/{value:.80}.",
        )


@contextmanager
def _naming_setting(variable: str, value: str) -> Iterator[None]:
    """Raise InvalidSetting, with the name of the setting, for a model that cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InvalidSetting(
            f"{variable} is {value!r}, from which no model can be read: {reason:.300}", _MODEL_CURE
        ) from error


def open_worker(settings: Settings, artifacts: Artifacts, registry: CollectorRegistry | None = None) -> LocalWorker:
    """Open a worker in this process, with its engine started."""
    lvlm = open_lvlm(settings)
    return LocalWorker(
        lvlm,
        open_embedder(settings),
        artifacts,
        open_engine(settings, lvlm),
        max_requests=settings.max_batch + settings.max_waiting,
        max_prepared_bytes=settings.prepared_mb * 2**20,
        registry=registry,
    )


def open_engine(settings: Settings, lvlm: Lvlm) -> Engine:
    """Open and start the engine that the settings name."""
    if settings.engine == "static":
        return StaticBatchEngine(lvlm, rows=settings.max_batch, waiting=settings.max_waiting).start()
    budget = Budget(
        rows=settings.max_batch,
        waiting=settings.max_waiting,
        columns=settings.kv_tokens,
        prefill=settings.prefill_tokens,
        feature_bytes=settings.image_cache_mb * 2**20,
    )
    engine = InFlightEngine(lvlm, budget, compiled=settings.compile)
    check_decoder(lvlm, engine.decoder)
    return engine.start()


def open_server(settings: Settings) -> tuple[WorkerServer, Host]:
    """Return a server for a worker process, not yet started, and the host that will load its models.

    Raises InvalidSetting if other machines could reach it without a token.
    """
    check_exposure(settings)
    flush_denormals()  # threads that the server starts inherit the setting
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    artifacts = open_artifacts(settings.artifacts_place, endpoint_url=settings.s3_endpoint_url)
    host = Host(lambda: open_worker(settings, artifacts, registry))
    # Images travel as base64, which is a third longer.
    app = create_app(host, registry, token=settings.shared_token, max_body_bytes=2 * settings.max_request_bytes)
    address, port, grace_s = settings.worker_host, settings.worker_port, settings.worker_grace_s
    return WorkerServer(app, host, address=address, port=port, grace_s=grace_s), host


def check_exposure(settings: Settings) -> None:
    """Raise InvalidSetting if other machines could use the worker without a token."""
    host = settings.worker_host
    if settings.shared_token is None and not is_loopback(host):
        raise InvalidSetting(
            f"A worker that listens on {host!r} needs a token, since other machines can reach it.",
            "Set the same VLIBRARY_WORKER_TOKEN, a long random text, for the API and its workers, or use 127.0.0.1.",
        )
