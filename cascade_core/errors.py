"""The error tree of the engine.

    CascadeError
    ├── UserError            what the caller gave is wrong; the same call fails again
    │   ├── InvalidConfig        a setting or model card: names the field and the allowed range
    │   ├── UnknownModel         no card of that name: lists the known ones
    │   ├── InvalidPrompt        empty, or longer than the text encoder takes
    │   ├── InvalidRequest       a session request that does not fit the model
    │   ├── UnusableFile         a picture or clip to begin from: damaged, too large, too short
    │   └── WeightsError         a checkpoint that is absent, damaged, unsafe or of another shape
    ├── OutOfCapacity        no room for another session now; retry later or elsewhere
    ├── SessionClosed        a call on a session that has ended
    └── SessionLost          the ranks died or hung under the session; retry at once, here or elsewhere

`retryable` tells whether the same request can succeed later without being changed.
"""


class CascadeError(Exception):
    """Base of every error the engine raises on purpose."""

    retryable = False


class UserError(CascadeError, ValueError):
    """The caller must change the request."""


class InvalidConfig(UserError):
    """A setting or a model card field is outside its allowed range."""


class UnknownModel(UserError):
    """No model card has this name."""


class InvalidPrompt(UserError):
    """The prompt is empty or has more tokens than the text encoder takes."""


class InvalidRequest(UserError):
    """The session request does not fit the model or the engine."""


class UnusableFile(UserError):
    """The picture or clip to begin with is damaged, of another type, or outside its bounds. Its text goes on
    after the file's name: `is a GIF, must be PNG, JPEG or WebP`."""


class WeightsError(UserError):
    """A checkpoint is absent, damaged, unsafe to read, or does not fit the model."""


class OutOfCapacity(CascadeError):
    """The engine has no room for another session, or is restarting its ranks."""

    retryable = True


class SessionClosed(CascadeError):
    """The session has ended; open a new one."""


class SessionLost(CascadeError):
    """The ranks under the session died, failed or hung; it can be reopened elsewhere from its journal."""

    retryable = True
