"""The errors of VLibrary as one tree of exceptions, each with a code that callers can match.

service/http_common.py maps them to HTTP statuses.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Which error it is: the last part of a problem's `type` over HTTP, and the stable way to tell errors apart."""

    ERROR = "error"
    INVALID_INPUT = "invalid-input"
    INVALID_ARTIFACT = "invalid-artifact"
    WRONG_MODEL = "wrong-model"
    UNSUPPORTED_EDIT = "unsupported-edit"
    INVALID_CARD = "invalid-card"
    INVALID_IMAGE = "invalid-image"
    INVALID_QUERY = "invalid-query"
    INVALID_ARCHIVE = "invalid-archive"
    PROMPT_TOO_LONG = "prompt-too-long"
    IDEMPOTENCY_KEY_REUSED = "idempotency-key-reused"
    INVALID_BACKUP = "invalid-backup"
    TOO_LARGE = "too-large"
    SLOW_REQUEST = "slow-request"
    NOT_FOUND = "not-found"
    VECTOR_NOT_FOUND = "vector-not-found"
    MODEL_NOT_FOUND = "model-not-found"
    ALIAS_NOT_FOUND = "alias-not-found"
    CONFLICT = "conflict"
    STALE_REVISION = "stale-revision"
    REVISION_REQUIRED = "revision-required"
    ALIAS_TAKEN = "alias-taken"
    STILL_ALIASED = "still-aliased"
    NOT_DELETED = "not-deleted"
    NOT_EMPTY = "not-empty"
    BACKUP_BUSY = "backup-busy"
    BACKUP_AHEAD = "backup-ahead"
    COLLECTOR_PAUSED = "collector-paused"
    SEQ_NOT_REACHED = "seq-not-reached"
    VECTOR_EXISTS = "vector-exists"
    VECTOR_PURGED = "vector-purged"
    IN_PROGRESS = "in-progress"
    UNAVAILABLE = "unavailable"
    CATALOGUE_UNAVAILABLE = "catalogue-unavailable"
    ARTIFACTS_UNAVAILABLE = "artifacts-unavailable"
    UPLOAD_EXPIRED = "upload-expired"
    WORKER_UNAVAILABLE = "worker-unavailable"
    WORKER_LOST = "worker-lost"
    OUT_OF_MEMORY = "out-of-memory"
    OVERLOADED = "overloaded"
    TIMED_OUT = "timed-out"
    ARTIFACT_LOST = "artifact-lost"
    UNSUPPORTED_MODEL = "unsupported-model"
    # Raised by commands, training and the client, never by the service:
    MODEL_UNAVAILABLE = "model-unavailable"
    INVALID_SETTING = "invalid-setting"
    INVALID_EXAMPLES = "invalid-examples"
    INVALID_TRAINING_SETTINGS = "invalid-training-settings"
    TRAINING_DIVERGED = "training-diverged"
    SERVICE_ERROR = "service-error"
    # Not exceptions of this module; the API reports them:
    INVALID_REQUEST = "invalid-request"
    UNFORESEEN = "unforeseen"


class VLibraryError(Exception):
    """Base class of all errors that VLibrary raises on purpose.

    title: the same for every error of the class. detail: what is wrong, with the offending value. cure: what to do.
    field: the option of the request that is wrong, such as `json_schema`, where the caller could not tell otherwise.
    """

    code: str = ErrorCode.ERROR
    title: str = "Error"

    def __init__(self, detail: str, cure: str, *, field: str | None = None) -> None:
        super().__init__(f"{detail} {cure}")
        self.detail = detail
        self.cure = cure
        self.field = field


class InvalidInput(VLibraryError):
    """The caller can correct the request."""

    code, title = ErrorCode.INVALID_INPUT, "Invalid input"


class InvalidArtifact(InvalidInput):
    code, title = ErrorCode.INVALID_ARTIFACT, "The file is not a valid steering vector"


class WrongModel(InvalidInput):
    code, title = ErrorCode.WRONG_MODEL, "The vector belongs to another base model"


class UnsupportedEdit(InvalidInput):
    code, title = ErrorCode.UNSUPPORTED_EDIT, "The engine cannot apply the vector's edit"


class InvalidCard(InvalidInput):
    code, title = ErrorCode.INVALID_CARD, "The vector's card is invalid"


class InvalidImage(InvalidInput):
    code, title = ErrorCode.INVALID_IMAGE, "Invalid image"


class InvalidQuery(InvalidInput):
    code, title = ErrorCode.INVALID_QUERY, "Invalid query"


class InvalidArchive(InvalidInput):
    code, title = ErrorCode.INVALID_ARCHIVE, "Invalid archive"


class PromptTooLong(InvalidInput):
    code, title = ErrorCode.PROMPT_TOO_LONG, "The prompt does not fit the model's context"


class KeyReused(InvalidInput):
    code, title = ErrorCode.IDEMPOTENCY_KEY_REUSED, "The idempotency key was used for another request"


class InvalidBackup(InvalidInput):
    code, title = ErrorCode.INVALID_BACKUP, "Invalid backup"


class InvalidSetting(InvalidInput):
    """A setting of the process is wrong, so it cannot start."""

    code, title = ErrorCode.INVALID_SETTING, "Invalid setting"


class TooLarge(VLibraryError):
    code, title = ErrorCode.TOO_LARGE, "The request exceeds a size limit"


class SlowRequest(VLibraryError):
    code, title = ErrorCode.SLOW_REQUEST, "The request arrives too slowly"


class NotFound(VLibraryError):
    code, title = ErrorCode.NOT_FOUND, "Not found"


class VectorNotFound(NotFound):
    code, title = ErrorCode.VECTOR_NOT_FOUND, "Vector not found"


class ModelNotFound(NotFound):
    code, title = ErrorCode.MODEL_NOT_FOUND, "No worker serves this model"


class AliasNotFound(NotFound):
    code, title = ErrorCode.ALIAS_NOT_FOUND, "Alias not found"


class Conflict(VLibraryError):
    code, title = ErrorCode.CONFLICT, "The request conflicts with the library's current state"


class StaleRevision(Conflict):
    code, title = ErrorCode.STALE_REVISION, "The revision is out of date"


class RevisionRequired(Conflict):
    code, title = ErrorCode.REVISION_REQUIRED, "The request must name the revision it changes"


class AliasTaken(Conflict):
    code, title = ErrorCode.ALIAS_TAKEN, "The alias already exists"


class StillAliased(Conflict):
    code, title = ErrorCode.STILL_ALIASED, "An alias points to the vector"


class NotDeleted(Conflict):
    code, title = ErrorCode.NOT_DELETED, "The vector is not deleted"


class NotEmpty(Conflict):
    """Restoring the backup would replace the library's content."""

    code, title = ErrorCode.NOT_EMPTY, "The library is not empty"


class BackupBusy(Conflict):
    code, title = ErrorCode.BACKUP_BUSY, "The backup is in use"


class BackupAhead(Conflict):
    """A new backup would discard these changes."""

    code, title = ErrorCode.BACKUP_AHEAD, "The backup has changes that the library lacks"


class CollectorPaused(Conflict):
    """`vlibrary doctor --deep` must examine the store first."""

    code, title = ErrorCode.COLLECTOR_PAUSED, "Garbage collection is paused"


class SeqNotReached(Conflict):
    code, title = ErrorCode.SEQ_NOT_REACHED, "The change log is shorter than requested"


class VectorExists(Conflict):
    code, title = ErrorCode.VECTOR_EXISTS, "The vector's id is in use"


class VectorPurged(Conflict):
    code, title = ErrorCode.VECTOR_PURGED, "The vector was purged"


class InProgress(VLibraryError):
    code, title = ErrorCode.IN_PROGRESS, "The same request is still in progress"


class Unavailable(VLibraryError):
    """A retry may succeed."""

    code, title = ErrorCode.UNAVAILABLE, "A part of the service is unavailable"


class CatalogueUnavailable(Unavailable):
    code, title = ErrorCode.CATALOGUE_UNAVAILABLE, "The catalogue is unavailable"


class ArtifactsUnavailable(Unavailable):
    code, title = ErrorCode.ARTIFACTS_UNAVAILABLE, "The artifact store is unavailable"


class UploadExpired(Unavailable):
    code, title = ErrorCode.UPLOAD_EXPIRED, "The registration exceeded its deadline"


class ModelUnavailable(Unavailable):
    code, title = ErrorCode.MODEL_UNAVAILABLE, "The model is not available"


class WorkerUnavailable(Unavailable):
    code, title = ErrorCode.WORKER_UNAVAILABLE, "No worker is available"


class WorkerLost(Unavailable):
    code, title = ErrorCode.WORKER_LOST, "The worker failed during the answer"


class OutOfMemory(Unavailable):
    code, title = ErrorCode.OUT_OF_MEMORY, "The model's device is out of memory"


class Overloaded(VLibraryError):
    code, title = ErrorCode.OVERLOADED, "Too many requests"


class TimedOut(VLibraryError):
    code, title = ErrorCode.TIMED_OUT, "The request timed out"


class ArtifactLost(VLibraryError):
    code, title = ErrorCode.ARTIFACT_LOST, "A vector's artifact is missing or corrupt"


class UnsupportedModel(VLibraryError):
    code, title = ErrorCode.UNSUPPORTED_MODEL, "The model cannot be steered exactly"
