"""What a handler raises becomes a status by the table in `status.py`; outside of it, calls only end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import structlog
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from services.common.call import Call
from services.common.interceptors.chain import Interceptor
from services.common.status import cause_of, describe, find_row

log = structlog.get_logger(__name__)
CODES = {code.value[0]: code for code in grpc.StatusCode}


class ErrorInterceptor(Interceptor):
    """Ends the call with the error's status, and notes how it ended in `call.code`."""

    @asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        try:
            yield
        except asyncio.CancelledError as error:
            if (
                not is_cancelling()
            ):  # something that the handler waited for was: nobody else would end the call
                await end(call, error)
            remaining_s = call.context.time_remaining()
            is_late = remaining_s is not None and remaining_s <= 0
            call.code = grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            call.code = code_of(call.context)
            raise
        except (Exception, BaseExceptionGroup) as error:
            await end(call, error)
        else:
            call.code = code_of(call.context)


def is_cancelling() -> bool:
    """Whether this call is cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end(call: Call, error: BaseException) -> None:
    """Abort the call with what the client may know of the error."""
    if isinstance(error, NotImplementedError) and code_of(call.context) is grpc.StatusCode.UNIMPLEMENTED:
        call.code = grpc.StatusCode.UNIMPLEMENTED  # a generated stub's method that nobody overrode
        await call.context.abort(call.code, "not implemented")
    if find_row(cause_of(error)) is None:
        log.error("a handler failed", exc_info=error)
    status = tell(error, call.request_id)
    call.code = CODES[status.code]
    wire: Any = rpc_status.to_status(status)
    await call.context.abort(wire.code, wire.details, wire.trailing_metadata)


def tell(error: BaseException, request_id: str) -> Status:
    """As `describe`; what fails in it says nothing to the client either."""
    try:
        return describe(error, request_id)
    except Exception:
        log.exception("an error cannot be told", kind=type(error).__name__)
        return describe(Exception(), request_id)


def code_of(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.StatusCode:
    """The code set so far; gRPC holds it as a number, a member, or nothing for OK."""
    code: Any = context.code()
    return code if isinstance(code, grpc.StatusCode) else CODES.get(code or 0, grpc.StatusCode.UNKNOWN)
