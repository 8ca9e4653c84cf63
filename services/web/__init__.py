"""HTTP for people and for clients without gRPC: the JSON mirror of the contract, and what streams video.

It is a gRPC client of a gateway: of the one in whose process it runs, over a Unix socket in a folder of our
own; or, as a process of its own (`python -m services.web`), of one elsewhere, over TCP. `Backend` passes the
caller's credentials on as metadata. So authentication, tenants, rates, validation, forwarding to other
gateways and the words of errors are those of gRPC.

    server.py     uvicorn for as long as a block lasts; standalone.py: the process of its own
    app.py        the Starlette application: routes, and what surrounds every request
    backend.py    the way to SessionService and OperatorService; gateways.py: both kinds of channel
    connect_stream.py  one stream of Connect; doorman.py: who may read a session's video
    safety.py     what surrounds every request: origins, headers, log; bounds.py: what one address may ask for
    uvicorn_private.py  uvicorn's connections and WebSockets with bounds
    problems.py   gRPC status -> application/problem+json, by one table
    mirror.py     unary methods of the contract as HTTP, derived from its descriptors
    openapi.py    writes openapi.json, the OpenAPI document, from the same descriptors
    video_paths.py  the part of it that no descriptor has: WebSocket, HLS, download

What adds routes is a module with `routes(backend: Backend) -> list[BaseRoute]`, mounted in `app.make_app`.
In a handler:

    credentials = backend.credentials(request)             # HTTPConnection: Request or WebSocket
    answer = await backend.unary("GetSession", pb.GetSessionRequest(name=...), credentials)
    stream = backend.connect(credentials)                   # grpc.aio call of Connect; cancel() it at the end
    await stream.write(pb.ConnectRequest(attach=...))       # attach.resume_token=credentials.resume_token

- `credentials.metadata` has the caller's `Authorization` header, the request id and the trace.
  `credentials.resume_token` comes from the header `X-Resume-Token` or the query's `resume_token`; it goes
  into `attach`, never into metadata. Without either, Connect is entered as nobody, and refuses.
- Let `grpc.aio.AioRpcError` and `CascadeError` pass: the application answers with a problem. Where headers
  are sent already, or over WebSocket: `problems.problem_of(error, request_id).content()` is the JSON object.
  What HTTP alone knows: `raise problems.HttpError(status, detail)`.
- `json_of` and `parse_json` in `mapping.py` are the JSON mapping, for events too.
- `backend.settings` is `HttpSettings`; `backend.leaving` (asyncio.Event) is set when the gateway, or
  a process of its own, begins to go away: long answers should end. Streams of a gateway that goes away get
  `reconnect` from Connect itself.
- Never log a query, a header or a body; never put a token into a path. Paths are logged.
- Safety headers are set unless a handler has set its own (a page needs another Content-Security-Policy).
  Requests of other origins than the host's own and `cors_origins` are refused before they reach a handler
  where they could change something, WebSockets included.
"""
