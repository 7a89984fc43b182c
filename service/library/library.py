"""The library: the stores, the index and the worker that use cases act on."""

from __future__ import annotations

from dataclasses import dataclass

from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.clock import Clock
from vlibrary.domain.ports.inference import Inference
from vlibrary.domain.ports.task_index import TaskIndex
from vlibrary.domain.steering import Mode


@dataclass(frozen=True)
class Library:
    """The ports of one process. Use cases take it, or one role port where they need no more.

    default_mode: how a request is steered that names a base model, or none, and chooses no steering.
    """

    catalogue: Catalogue
    artifacts: Artifacts
    index: TaskIndex
    worker: Inference
    clock: Clock
    default_mode: Mode = Mode.AUTO
