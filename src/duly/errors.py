"""The one error tree: features raise these, each contract renders them, and nothing else decides a status.

    DulyError
    ├── Malformed              400  the request cannot be read
    ├── Unauthenticated        401  no token, or one that is bad, expired or revoked
    ├── Forbidden              403  a valid token without the right
    │   └── InsufficientScope       what its issuer put into it is not enough
    ├── NotFound               404  absent, or not the caller's to see: both answer alike
    ├── MethodNotAllowed       405
    ├── NotAcceptable          406
    ├── Conflict               409  the database already holds something that excludes this
    ├── PreconditionFailed     412  If-Match or `version` is stale
    ├── TooLarge               413
    ├── UnsupportedMedia       415
    ├── Invalid                422  it can be read, and a field is wrong
    ├── Locked                 423
    ├── TooMany                429
    ├── DeliveryRefused        502  a mail that was to be sent at once was not taken
    ├── Unavailable            503  a dependency is down
    ├── TimedOut               504
    └── StorageFull            507  the disk takes no more writes

`message` is safe to show and says what to do; `code` is stable. `keeps_writes` makes the transaction commit before the
refusal is answered: a reused refresh token ends its family and is then refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What went wrong, as the HTTP status that every contract agrees on."""

    MALFORMED = 400
    UNAUTHENTICATED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    METHOD_NOT_ALLOWED = 405
    NOT_ACCEPTABLE = 406
    CONFLICT = 409
    PRECONDITION_FAILED = 412
    TOO_LARGE = 413
    UNSUPPORTED_MEDIA = 415
    INVALID = 422
    LOCKED = 423
    TOO_MANY = 429
    INTERNAL = 500
    BAD_GATEWAY = 502
    UNAVAILABLE = 503
    TIMED_OUT = 504
    STORAGE_FULL = 507


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One wrong field. `field` is a dotted path; `type` is a stable word for programs; the value is never repeated."""

    field: str
    message: str
    type: str


class DulyError(Exception):
    """Base of every refusal. Subclasses fix `kind` and a default `code`."""

    kind = Kind.INTERNAL
    default_code = "INTERNAL_ERROR"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        keeps_writes: bool = False,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.keeps_writes = keeps_writes
        self.retry_after = retry_after


class Malformed(DulyError):
    """The bytes cannot be read as what they claim to be."""

    kind = Kind.MALFORMED
    default_code = "MALFORMED_REQUEST"


class Unauthenticated(DulyError):
    """RFC 6750 §3.1: answered with `WWW-Authenticate`; `challenge` is false when no credentials were sent at all."""

    kind = Kind.UNAUTHENTICATED
    default_code = "INVALID_TOKEN"

    def __init__(
        self, message: str, *, code: str | None = None, keeps_writes: bool = False, challenge: bool = True
    ) -> None:
        super().__init__(message, code=code, keeps_writes=keeps_writes)
        self.challenge = challenge


class Forbidden(DulyError):
    """The caller is known and may not do this."""

    kind = Kind.FORBIDDEN
    default_code = "FORBIDDEN"


class InsufficientScope(Forbidden):
    """RFC 6750 §3.1: the token was given less than this needs; `scope` is what it needs, by blanks."""

    default_code = "INSUFFICIENT_SCOPE"

    def __init__(self, message: str, *, scope: str) -> None:
        super().__init__(message)
        self.scope = scope


class NotFound(DulyError):
    """Absent and invisible are one answer, so that ids cannot be probed."""

    kind = Kind.NOT_FOUND
    default_code = "NOT_FOUND"


class MethodNotAllowed(DulyError):
    """RFC 9110 §15.5.6: `allow` lists every method of the path."""

    kind = Kind.METHOD_NOT_ALLOWED
    default_code = "METHOD_NOT_ALLOWED"

    def __init__(self, message: str, *, allow: Sequence[str]) -> None:
        super().__init__(message)
        self.allow = tuple(allow)


class NotAcceptable(DulyError):
    """The client's Accept header admits nothing that the resource has."""

    kind = Kind.NOT_ACCEPTABLE
    default_code = "NOT_ACCEPTABLE"


class Conflict(DulyError):
    """The database's own constraint refused it: nothing was changed."""

    kind = Kind.CONFLICT
    default_code = "CONFLICT"


class PreconditionFailed(DulyError):
    """RFC 9110 §13.1.1: the version the client holds is not the current one."""

    kind = Kind.PRECONDITION_FAILED
    default_code = "STALE_VERSION"


class TooLarge(DulyError):
    """The body passes the limit of `MAX_BODY_BYTES`."""

    kind = Kind.TOO_LARGE
    default_code = "BODY_TOO_LARGE"


class UnsupportedMedia(DulyError):
    """The body's Content-Type or Content-Encoding is not one that the route reads."""

    kind = Kind.UNSUPPORTED_MEDIA
    default_code = "UNSUPPORTED_MEDIA_TYPE"


class Invalid(DulyError):
    """Readable, and at least one field is wrong; `faults` names each."""

    kind = Kind.INVALID
    default_code = "VALIDATION_ERROR"

    def __init__(self, message: str, *, code: str | None = None, faults: Sequence[FieldFault] = ()) -> None:
        super().__init__(message, code=code)
        self.faults = tuple(faults)


class Locked(DulyError):
    """RFC 4918 §11.3: the account is locked for `retry_after` seconds."""

    kind = Kind.LOCKED
    default_code = "ACCOUNT_LOCKED"


class TooMany(DulyError):
    """RFC 6585 §4: try again after `retry_after` seconds; `headers` say under which policy."""

    kind = Kind.TOO_MANY
    default_code = "RATE_LIMITED"

    def __init__(
        self, message: str, *, retry_after: int, headers: Sequence[tuple[bytes, bytes]] = (), code: str | None = None
    ) -> None:
        super().__init__(message, code=code, retry_after=retry_after)
        self.headers = tuple(headers)


class DeliveryRefused(DulyError):
    """Something that was to be handed on at once, a mail, was not taken."""

    kind = Kind.BAD_GATEWAY
    default_code = "MAIL_NOT_SENT"


class Unavailable(DulyError):
    """A dependency does not answer; `retry_after` is in seconds."""

    kind = Kind.UNAVAILABLE
    default_code = "UNAVAILABLE"

    def __init__(self, message: str, *, code: str | None = None, retry_after: int = 5) -> None:
        super().__init__(message, code=code, retry_after=retry_after)


class TimedOut(DulyError):
    """The request took longer than `REQUEST_TIMEOUT_SECONDS`; its transaction was rolled back."""

    kind = Kind.TIMED_OUT
    default_code = "TIMEOUT"


class StorageFull(DulyError):
    """RFC 4918 §11.5: nothing was written; reads go on."""

    kind = Kind.STORAGE_FULL
    default_code = "STORAGE_FULL"
