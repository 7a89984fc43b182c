"""Names of models in requests: a base model, a base model with a steering mode, or a vector.

A vector is a model name, as LoRA adapters are in other servers: clients that can set nothing else can choose a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import (
    AliasNotFound,
    InvalidInput,
    ModelNotFound,
    NotFound,
    VectorNotFound,
    WorkerUnavailable,
)
from vlibrary.domain.filters import Filter
from vlibrary.domain.registration import Alias
from vlibrary.domain.steering import Mode
from vlibrary.domain.wire import WorkerInfo
from vlibrary.library.library import Library
from vlibrary.library.references import resolve

# Records read at a time for a page of the list.
_BATCH = 100


@dataclass(frozen=True)
class NamedModel:
    """What a model name stands for. name: as sent, or the base model's id if the request named none.

    mode: of `base:auto` and `base:off`; None leaves the steering to the request. vector: the one that the name refers
    to. base: the served base model, that of the vector if there is one. embeds: the name is that of the query embedder,
    which gives embeddings and no answers.
    """

    name: str
    base: WorkerInfo
    mode: Mode | None = None
    vector: VectorRecord | None = None
    embeds: bool = False


def find_model(name: str | None, library: Library) -> NamedModel:
    """Return what the name stands for; None is the first base model. Blocks, because it may read the catalogue.

    The id of a base model wins over a vector with that name, which its version, alias or id still refers to.
    Raises ModelNotFound, and WorkerUnavailable if the workers that served the base model are gone.
    """
    with suppress(ModelNotFound):
        base = library.worker.find(name)
        return NamedModel(base.model.model_id, base)
    assert name is not None  # a worker serves at least one model
    stem, separator, mode = name.rpartition(":")
    if separator and mode in set(Mode):
        with suppress(ModelNotFound):
            return NamedModel(name, library.worker.find(stem), Mode(mode))
    try:
        record = resolve(name, library.catalogue)
    except (VectorNotFound, AliasNotFound) as error:
        served = ", ".join(repr(info.model.model_id) for info in library.worker.models())
        raise ModelNotFound(
            f"The model {name!r:.200} does not exist.",
            f"Use {served}, or a vector: its id, name, name:version or name@alias; GET /v1/models lists them.",
        ) from error
    return NamedModel(name, _find_base(record, name, library), vector=record)


def by_fingerprint(which: Filter, library: Library) -> Filter:
    """Return the filter with the name of a served base model replaced by the model's fingerprint.

    So it passes vectors that were trained from the same weights under another name. Other names stay as they are.
    """
    if which.model_id is None:
        return which
    try:
        model = library.worker.find(which.model_id).model
    except (ModelNotFound, WorkerUnavailable):
        return which
    return replace(which, model_id=None, fingerprint=model.fingerprint)


def find_embedder(library: Library) -> NamedModel:
    """Return the query embedder."""
    base = library.worker.models()[0]
    return NamedModel(base.embedder.embedder_id, base, embeds=True)


def list_models(library: Library, *, after: str | None = None, limit: int) -> tuple[Sequence[NamedModel], bool]:
    """Return models that requests can name, and whether more follow.

    First each base model with its two modes, then the vectors with an alias whose base model is served, by name and
    alias. after: the name of the last one that the caller has. Raises InvalidInput if it is not such a name.
    """
    bases = library.worker.models()
    found = _list_base_names(bases)
    names = [one.name for one in found]
    position = None
    if after in names:
        found = found[names.index(after) + 1 :]
    elif after is not None:
        position = _parse_alias(after)
        found = []
    for one in _iter_aliased(library, bases, position):
        if len(found) > limit:
            break
        found.append(one)
    return found[:limit], len(found) > limit


def _list_base_names(bases: Sequence[WorkerInfo]) -> list[NamedModel]:
    found: list[NamedModel] = []
    for base in bases:
        name = base.model.model_id
        found += [NamedModel(name, base), *(NamedModel(f"{name}:{mode}", base, mode) for mode in Mode)]
    return found


def _iter_aliased(library: Library, bases: Sequence[WorkerInfo], after: tuple[str, str] | None) -> Iterator[NamedModel]:
    """Yield the aliased vectors of served base models, a few records at a time."""
    served = {base.model.fingerprint: base for base in reversed(bases)}
    aliases = [one for one in library.catalogue.aliases.list() if after is None or (one.name, one.alias) > after]
    for start in range(0, len(aliases), _BATCH):
        batch: Sequence[Alias] = aliases[start : start + _BATCH]
        records = {one.id: one for one in library.catalogue.vectors.get_many([one.vector_id for one in batch])}
        for alias in batch:
            record = records.get(alias.vector_id)
            if record is not None and record.model.fingerprint in served:
                yield NamedModel(f"{alias.name}@{alias.alias}", served[record.model.fingerprint], vector=record)


def _parse_alias(after: str) -> tuple[str, str]:
    name, separator, alias = after.partition("@")
    if not separator:
        raise InvalidInput(
            f"`after` is {after!r:.200}, which is no model of the list.", "Send the last `id` of a page."
        )
    return name, alias


def _find_base(record: VectorRecord, name: str, library: Library) -> WorkerInfo:
    """Return the served model that the vector was trained for."""
    for base in library.worker.models():
        if base.model.fingerprint == record.model.fingerprint:
            return base
    with suppress(NotFound):
        library.worker.find(record.model.model_id)  # raises WorkerUnavailable if its workers are gone
    raise ModelNotFound(
        f"The vector {name!r:.200} is for the base model {record.model.model_id!r} "
        f"({record.model.fingerprint[:12]}), which no worker serves.",
        "Use a vector of a served model; GET /v1/models lists them.",
    )
