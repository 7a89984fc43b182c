"""Everything that can go wrong, as one tree.

VLibraryError
├── InvalidInput               the caller can mend the request
│   ├── InvalidArtifact        the file is not a steering vector that this format allows
│   ├── WrongModel             the vector belongs to another base model
│   ├── UnsupportedEdit        the edit is well formed, but this engine cannot apply it
│   ├── InvalidCard            the card beside the file is wrong
│   ├── InvalidImage           unreadable, animated or too many pixels
│   ├── InvalidQuery           empty or contradictory query
│   ├── InvalidArchive         the archive, or a vector in it, is cut off, altered or no archive of ours
│   ├── PromptTooLong          the prompt does not fit the model's context
│   ├── InvalidBackup          unfinished, damaged, or of another release
│   └── KeyReused              an idempotency key came back with another body
├── TooLarge                   more bytes than the service takes
├── NotFound
│   ├── VectorNotFound
│   ├── AliasNotFound
│   └── ModelNotFound
├── Conflict                   the request does not fit what the library holds now
│   ├── StaleRevision          it was meant for an earlier revision
│   ├── RevisionRequired       it must say for which revision it is meant
│   ├── AliasTaken             there is such an alias already
│   ├── StillAliased           an alias points to the vector that shall go
│   ├── NotDeleted             only a deleted vector can be restored or purged
│   ├── SeqNotReached          the change log is shorter than the caller knows it
│   ├── BackupBusy             somebody else writes or restores the same backup now
│   ├── BackupAhead            the backup holds changes that the library which would replace it lacks
│   ├── NotEmpty               a backup would replace what the library holds
│   ├── CollectorPaused        after a restoration, until the library was examined
│   ├── VectorExists           the id belongs to another registration
│   └── VectorPurged           what the idempotency key made was removed for good
├── InProgress                 the same idempotency key is still at work
├── Unavailable                a store or worker cannot answer now; trying again may help
│   ├── CatalogueUnavailable
│   ├── ArtifactsUnavailable
│   ├── UploadExpired          the registration took longer than its deadline
│   ├── WorkerUnavailable      no worker that serves this model answers
│   ├── WorkerLost             the worker went away in the middle of an answer
│   └── OutOfMemory            the model's device has no room for this request
├── Overloaded                 more requests than the queue takes; trying again later helps
├── TimedOut                   the answer was not ready by the request's deadline
├── ArtifactLost               the catalogue has a vector whose bytes are missing or damaged
└── UnsupportedModel           a base model that cannot be steered exactly

Only the edge (service/http_common.py) knows HTTP. Every error says what is wrong and how to mend it.
"""

from __future__ import annotations


class VLibraryError(Exception):
    """Base of all errors that this project raises on purpose.

    detail: what is wrong, with the offending value; cure: what to do about it.
    """

    slug = "error"
    title = "Something went wrong"

    def __init__(self, detail: str, cure: str) -> None:
        super().__init__(f"{detail} {cure}")
        self.detail = detail
        self.cure = cure


class InvalidInput(VLibraryError):
    slug, title = "invalid-input", "The request cannot be used as it is"


class InvalidArtifact(InvalidInput):
    slug, title = "invalid-artifact", "The file is not a valid steering vector"


class WrongModel(InvalidInput):
    slug, title = "wrong-model", "The vector belongs to another base model"


class UnsupportedEdit(InvalidInput):
    slug, title = "unsupported-edit", "This engine cannot apply the vector's edit"


class InvalidCard(InvalidInput):
    slug, title = "invalid-card", "The vector's card is wrong"


class InvalidImage(InvalidInput):
    slug, title = "invalid-image", "An image cannot be used"


class InvalidQuery(InvalidInput):
    slug, title = "invalid-query", "The query cannot be used"


class InvalidArchive(InvalidInput):
    slug, title = "invalid-archive", "The archive cannot be used"


class PromptTooLong(InvalidInput):
    slug, title = "prompt-too-long", "The prompt does not fit the model's context"


class KeyReused(InvalidInput):
    slug, title = "idempotency-key-reused", "The idempotency key was used for another request"


class InvalidBackup(InvalidInput):
    slug, title = "invalid-backup", "The backup cannot be used"


class TooLarge(VLibraryError):
    slug, title = "too-large", "The request is larger than the service takes"


class NotFound(VLibraryError):
    slug, title = "not-found", "There is no such thing"


class VectorNotFound(NotFound):
    slug, title = "vector-not-found", "There is no such vector"


class ModelNotFound(NotFound):
    slug, title = "model-not-found", "No worker serves this model"


class AliasNotFound(NotFound):
    slug, title = "alias-not-found", "There is no such alias"


class Conflict(VLibraryError):
    slug, title = "conflict", "The request does not fit the library's present state"


class StaleRevision(Conflict):
    slug, title = "stale-revision", "It was changed since you read it"


class RevisionRequired(Conflict):
    slug, title = "revision-required", "The request must say which revision it changes"


class AliasTaken(Conflict):
    slug, title = "alias-taken", "There is such an alias already"


class StillAliased(Conflict):
    slug, title = "still-aliased", "An alias points to the vector"


class NotDeleted(Conflict):
    slug, title = "not-deleted", "The vector is not deleted"


class NotEmpty(Conflict):
    slug, title = "not-empty", "The library is not empty"


class BackupBusy(Conflict):
    slug, title = "backup-busy", "The backup is in use"


class BackupAhead(Conflict):
    slug, title = "backup-ahead", "The backup is not of this library's past"


class CollectorPaused(Conflict):
    slug, title = "collector-paused", "The collector is paused"


class SeqNotReached(Conflict):
    slug, title = "seq-not-reached", "The change log has not come that far"


class VectorExists(Conflict):
    slug, title = "vector-exists", "The vector's id is in use"


class VectorPurged(Conflict):
    slug, title = "vector-purged", "The vector was removed for good"


class InProgress(VLibraryError):
    slug, title = "in-progress", "The same request is still at work"


class Unavailable(VLibraryError):
    slug, title = "unavailable", "A part of the service cannot answer now"


class CatalogueUnavailable(Unavailable):
    slug, title = "catalogue-unavailable", "The catalogue cannot answer now"


class ArtifactsUnavailable(Unavailable):
    slug, title = "artifacts-unavailable", "The artifact store cannot answer now"


class UploadExpired(Unavailable):
    slug, title = "upload-expired", "The registration took longer than its deadline"


class WorkerUnavailable(Unavailable):
    slug, title = "worker-unavailable", "No worker can answer now"


class WorkerLost(Unavailable):
    slug, title = "worker-lost", "The worker went away in the middle of the answer"


class OutOfMemory(Unavailable):
    slug, title = "out-of-memory", "The model's device has no room for this request"


class Overloaded(VLibraryError):
    slug, title = "overloaded", "The service has more requests than it can take"


class TimedOut(VLibraryError):
    slug, title = "timed-out", "The answer was not ready in time"


class ArtifactLost(VLibraryError):
    slug, title = "artifact-lost", "A registered vector's bytes are missing or damaged"


class UnsupportedModel(VLibraryError):
    slug, title = "unsupported-model", "This model cannot be steered exactly"
