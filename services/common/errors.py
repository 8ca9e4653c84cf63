"""Errors of the services, beside the engine's in `cascade_core/errors.py`.

    CascadeError
    └── ServiceError
        ├── Malformed            the bytes are no message of this method
        ├── Unauthenticated      no credentials, or none that we know
        ├── PermissionDenied     known, but not allowed
        ├── NotFound             no such session or page
        ├── AlreadyExists        the same request_id with other contents
        ├── Fenced               an older epoch than the session's: another owner took over
        ├── QuotaExceeded        the tenant's own limit; names it
        ├── Overloaded           this server's limit; retry here or elsewhere
        ├── Draining             this server is leaving; retry elsewhere at once
        └── DeadlineExceeded     the call took longer than it may

What a client sees of each is in `status.TABLE`.
"""

from cascade_core.errors import CascadeError


class ServiceError(CascadeError):
    """Base of the errors that only a server can raise."""


class Malformed(ServiceError):
    """The bytes are no message of this method."""


class Unauthenticated(ServiceError):
    """No credentials, or none that we know."""


class PermissionDenied(ServiceError):
    """The caller is known and may not do this."""


class NotFound(ServiceError):
    """No such resource, or not the caller's."""


class AlreadyExists(ServiceError):
    """A request_id was used before with other contents."""


class Fenced(ServiceError):
    """The call carries an older epoch than the session: another owner took over."""


class QuotaExceeded(ServiceError):
    """A limit of the caller's own is reached."""

    retryable = True

    def __init__(self, message: str, *, subject: str) -> None:
        """`subject`: whose limit, such as `tenant:acme`."""
        super().__init__(message)
        self.subject = subject


class Overloaded(ServiceError):
    """This server answers as many calls as it may."""

    retryable = True


class Draining(ServiceError):
    """This server is leaving and takes nothing new."""

    retryable = True


class DeadlineExceeded(ServiceError):
    """The call took longer than it may."""

    retryable = True
