"""Nobody but the health check gets in without an Authenticator's consent."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from services.common.auth import Authenticator
from services.common.call import Call
from services.common.interceptors.chain import Interceptor


class AuthInterceptor(Interceptor):
    """Sets `call.principal` and binds it to the log."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        if call.is_health:
            yield
            return
        call.principal = await self._authenticator.authenticate(call.metadata)
        caller = call.principal
        structlog.contextvars.bind_contextvars(caller=caller.name, tenant=caller.tenant)
        yield
