"""Each inbound message, of calls and of streams, is valid before a handler sees it."""

from collections.abc import Callable

from google.protobuf.message import Message

from services.common.call import Call
from services.common.interceptors.chain import Interceptor

Validator = Callable[[Message], None]
"""Raises an error with `violations`, a list of (field, what is wrong)."""


class ValidationInterceptor(Interceptor):
    """Our own messages only: health and reflection have no rules."""

    def __init__(self, validate: Validator, package: str = "cascade.") -> None:
        self._validate = validate
        self._prefix = f"/{package}"

    def check(self, call: Call, message: Message) -> None:
        if call.method.startswith(self._prefix):
            self._validate(message)
