"""Nobody but the health check gets in without an Authenticator's consent."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import structlog

from services.common.auth import AUTHORIZATION, Authenticator
from services.common.call import NOBODY, Call, Principal
from services.common.errors import Unauthenticated
from services.common.interceptors.chain import Interceptor


class AuthInterceptor(Interceptor):
    """Sets `call.principal` and binds it to the log."""

    def __init__(self, authenticator: Authenticator, open_methods: Collection[str] = ()) -> None:
        """`open_methods`: entered as NOBODY by callers without any credential; a wrong one is refused."""
        self._authenticator = authenticator
        self._open_methods = frozenset(open_methods)

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        if call.is_health:
            yield
            return
        call.principal = caller = await self._who(call)
        structlog.contextvars.bind_contextvars(caller=caller.name, tenant=caller.tenant)
        yield

    async def _who(self, call: Call) -> Principal:
        try:
            return await self._authenticator.authenticate(call)
        except Unauthenticated:
            if call.method in self._open_methods and AUTHORIZATION not in call.metadata:
                return NOBODY
            raise
