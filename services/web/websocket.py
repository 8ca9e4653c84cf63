"""Connect over a WebSocket, for browsers: the same messages, acknowledgements and rules.

`/v1/sessions/{session}/connect`, subprotocol `cascade.v1`. The client's messages are JSON text, each one a
ConnectRequest; the first is `attach`, within 10 s, and may have a `credential` (an API key or a JWT) beside
it, since browsers cannot send headers:

    {"attach": {"resumeToken": "...", "afterSequence": "41", "maxUnackedSegments": 4}}
    {"ack": {"sequence": "42"}}

The gateway's are ConnectResponses as `frames.py` packs them. Before it closes a stream that cannot go on it
sends `{"problem": {...}}`, as the other paths answer errors; the close code is 4000 + the problem's status.
A code below 4000 other than 1000 is a lost connection: attach again with `afterSequence`.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from services.common.auth import AUTHORIZATION
from services.common.errors import FirstMessageLate, Malformed, Overloaded, ProtocolViolation
from services.common.race import race
from services.common.streams import MESSAGE_DEADLINE_S
from services.common.validation import InvalidField
from services.web.backend import PRINTABLE, Backend, Credentials, request_id_of
from services.web.connect_stream import ConnectStream, Request
from services.web.frames import frame_of, text_of
from services.web.mapping import parse_json, to_message
from services.web.problems import Problem, problem_of

PROTOCOL = "cascade.v1"
CLOSE_CODES = 4000
"""Added to the status of a problem."""
SEND_TIMEOUT_S = 60.0
"""A client that does not read for that long is gone."""
CREDENTIAL = "credential"


def routes(backend: Backend) -> list[BaseRoute]:
    """Mounted by `streams.routes`."""

    async def connect(socket: WebSocket) -> None:
        await Conversation(backend, socket).run()

    return [WebSocketRoute("/v1/sessions/{session}/connect", connect)]


class Conversation:
    """One WebSocket from its handshake to its close. Holds one message of each direction, never more."""

    def __init__(self, backend: Backend, socket: WebSocket) -> None:
        self._backend = backend
        self._socket = socket
        self._name = f"sessions/{socket.path_params['session']}"

    async def run(self) -> None:
        """Until either side closes. What goes wrong is told to the client."""
        if PROTOCOL not in self._socket.scope["subprotocols"]:
            problem = Problem(400, f"this needs the WebSocket subprotocol {PROTOCOL}")
            return await self._socket.send_denial_response(problem.response())
        await self._socket.accept(subprotocol=PROTOCOL)
        with suppress(WebSocketDisconnect, TimeoutError):
            try:
                await self._converse()
            except WebSocketDisconnect:
                raise
            except Exception as error:
                await self._refuse(error)
            else:
                await self._socket.close()

    async def _converse(self) -> None:
        """Until the session's stream has ended. Raises what it ended with, or WebSocketDisconnect."""
        try:
            async with asyncio.timeout(MESSAGE_DEADLINE_S):
                content = await self._receive()
        except TimeoutError:
            raise FirstMessageLate(f"`attach` did not come within {MESSAGE_DEADLINE_S:g} s") from None
        credentials = self._credentials(content)
        stream = ConnectStream(self._backend, credentials)
        try:
            await stream.write(self._attach(content, credentials))
            await race(self._forward_events(stream), self._forward_messages(stream))
        finally:
            stream.close()

    def _credentials(self, content: dict[str, Any]) -> Credentials:
        """Those of the handshake, or what stands beside `attach`."""
        found = self._backend.credentials(self._socket)
        credential = content.pop(CREDENTIAL, "")
        if not isinstance(credential, str) or not PRINTABLE.fullmatch(credential):
            raise InvalidField([(CREDENTIAL, "must be text, of printable ASCII")])
        if not credential:
            return found
        kept = [pair for pair in found.metadata if pair[0] != AUTHORIZATION]
        return Credentials([*kept, (AUTHORIZATION, f"Bearer {credential}")], found.resume_token)

    def _attach(self, content: dict[str, Any], credentials: Credentials) -> Request:
        request = to_message(content, Request())
        if not request.HasField("attach"):
            raise ProtocolViolation("`attach` must come first")
        attach = request.attach
        if attach.name not in ("", self._name):
            raise InvalidField([("attach.name", f"is another session than {self._name} of the path")])
        attach.name = self._name
        attach.resume_token = attach.resume_token or credentials.resume_token
        return request

    async def _forward_events(self, stream: ConnectStream) -> None:
        """To the client, each when the one before it is on its way."""
        while (event := await stream.read()) is not None:
            frame = frame_of(event)
            try:
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    if isinstance(frame, str):
                        await self._socket.send_text(frame)
                    else:
                        await self._socket.send_bytes(frame)
            except TimeoutError:
                raise Overloaded(f"nothing was read for {SEND_TIMEOUT_S:g} s") from None

    async def _forward_messages(self, stream: ConnectStream) -> None:
        """To the session, each when it has taken the one before it."""
        while True:
            await stream.write(to_message(await self._receive(), Request()))

    async def _receive(self) -> dict[str, Any]:
        """The next message of the client. Raises WebSocketDisconnect, and Malformed."""
        received: Mapping[str, Any] = await self._socket.receive()
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", 1006))
        text = received.get("text")
        if text is None:
            raise Malformed("messages are JSON text; binary ones go the other way only")
        return parse_json(text)

    async def _refuse(self, error: Exception) -> None:
        """Say why, and close."""
        problem = problem_of(error, request_id_of(self._socket))
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await self._socket.send_text(text_of({"problem": problem.content()}))
            await self._socket.close(CLOSE_CODES + problem.status, problem.reason)
