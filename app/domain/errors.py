"""Every error that Lethe raises on purpose, in one tree.

    LetheError
    ├── CallerError          the caller can fix it: what was sent is wrong, or comes at the wrong time
    │   ├── BadRequest           malformed: a header, a parameter, a body
    │   │   ├── BadRecipe            a knob is unknown, of the wrong type or out of range
    │   │   └── BadPolicy            a policy limit is unknown, of the wrong type or out of range
    │   ├── BadSamples           rows that cannot be used, each with its line number
    │   ├── TooFewSamples        fewer rows than the figures need
    │   ├── ModelRefused         an upload that is not admitted, with its findings by rule id
    │   ├── Unauthenticated      no key, or one that is not known
    │   ├── Forbidden            a known key without the scope
    │   ├── NotFound             no such thing, for this caller
    │   ├── Gone                 it was there, and expired
    │   ├── Conflict             it clashes with the present state
    │   │   ├── IllegalMove          a job cannot go from its status to the asked one
    │   │   ├── KeyReused            an Idempotency-Key came again with another body
    │   │   ├── OffsetMismatch       an upload continues at another offset
    │   │   └── Locked               another request is writing to it at this moment
    │   ├── BodyInterrupted      a request's body stopped before its end, or came too slowly
    │   ├── ChecksumMismatch     the bytes are not those that the digest promised
    │   ├── TooLarge             over a size limit
    │   │   └── QuotaExceeded        over what the tenant may store
    │   ├── TooMany              more at a time, or in a minute, than is allowed
    │   ├── UnsupportedMedia     a media type or format that is not read here
    │   ├── NotAcceptable        a format of the answer that is not made here
    │   ├── BadRange             a range that lies outside the file
    │   └── PreconditionFailed   a conditional request whose condition does not hold
    ├── OperatorError        whoever runs the service can fix it
    │   ├── DependencyDown       the database, Redis or the storage does not answer
    │   ├── StorageFull          no space is left on the device
    │   ├── SandboxUnavailable   the sandbox lacks a layer, or its child could not be started
    │   └── OtherVersion         only a newer version can read the row
    └── OurError             a fault of Lethe
        ├── LeaseLost            another worker holds the job: this run must stop
        ├── Diverged             a run left the region where its figures mean anything
        ├── Corrupt              a stored file does not hash to its name
        └── ChildFailed          the sandboxed child came to no answer of its own
            ├── ChildCrashed         it ended by a signal or an unexpected exit
            ├── ChildTimeout         it used up its time
            ├── ChildOutOfMemory     it used up its memory
            └── ChildMisspoke        it said something that is not in the protocol

The class says who can fix it, `code` is stable for programs, and `message` is public and says what to do.
HTTP status codes live in `app/api/failures.py` and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class LetheError(Exception):
    """Base of the tree. `details` holds JSON-ready facts beside the message (rows, findings, limits)."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: Mapping[str, Any] = details


class CallerError(LetheError):
    code = "caller-error"


class BadRequest(CallerError):
    code = "bad-request"


class BadRecipe(BadRequest):
    code = "bad-recipe"


class BadPolicy(BadRequest):
    code = "bad-policy"


class BadSamples(CallerError):
    code = "bad-samples"


class TooFewSamples(CallerError):
    code = "too-few-samples"


class ModelRefused(CallerError):
    code = "model-refused"


class Unauthenticated(CallerError):
    code = "unauthenticated"


class Forbidden(CallerError):
    code = "forbidden"


class NotFound(CallerError):
    code = "not-found"


class Gone(CallerError):
    code = "gone"


class Conflict(CallerError):
    code = "conflict"


class IllegalMove(Conflict):
    code = "illegal-move"


class KeyReused(Conflict):
    code = "idempotency-key-reused"


class OffsetMismatch(Conflict):
    code = "offset-mismatch"


class Locked(Conflict):
    code = "locked"


class BodyInterrupted(CallerError):
    code = "body-interrupted"


class ChecksumMismatch(CallerError):
    code = "checksum-mismatch"


class TooLarge(CallerError):
    code = "too-large"


class QuotaExceeded(TooLarge):
    code = "quota-exceeded"


class TooMany(CallerError):
    """`retry_after`, in its details, is seconds, where that is known."""

    code = "too-many"


class UnsupportedMedia(CallerError):
    code = "unsupported-media-type"


class NotAcceptable(CallerError):
    code = "not-acceptable"


class BadRange(CallerError):
    """`size`, in its details, is the file's length in bytes."""

    code = "range-not-satisfiable"


class PreconditionFailed(CallerError):
    code = "precondition-failed"


class OperatorError(LetheError):
    code = "operator-error"


class DependencyDown(OperatorError):
    code = "dependency-down"


class StorageFull(OperatorError):
    code = "storage-full"


class SandboxUnavailable(OperatorError):
    code = "sandbox-unavailable"


class OtherVersion(OperatorError):
    """A row that only a newer version of Lethe can read: it is left for a worker of that version."""

    code = "other-version"


class OurError(LetheError):
    code = "internal-error"


class LeaseLost(OurError):
    code = "lease-lost"


class Diverged(OurError):
    code = "diverged"


class Corrupt(OurError):
    code = "corrupt-object"


class ChildFailed(OurError):
    """`log_tail` is the end of what the child wrote to stderr: for the operator's log, never for a caller."""

    code = "child-failed"

    def __init__(self, message: str, log_tail: str = "") -> None:
        super().__init__(message)
        self.log_tail = log_tail


class ChildCrashed(ChildFailed):
    code = "child-crashed"


class ChildTimeout(ChildFailed):
    code = "child-timeout"


class ChildOutOfMemory(ChildFailed):
    code = "child-out-of-memory"


class ChildMisspoke(ChildFailed):
    code = "child-misspoke"
