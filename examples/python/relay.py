"""A backend of your own between browsers and the gateway; it alone has the key.

pip install fastapi uvicorn
uvicorn relay:app        # then open http://localhost:8000
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from cascade_client import CascadeClientError, Client, Exhausted, InvalidRequest, MediaInit, Segment, Session

GATEWAY = os.environ.get("CASCADE_CLIENT_GATEWAY", "localhost:50051")
client = Client(GATEWAY, api_key=os.environ.get("CASCADE_API_KEY"))
PAGE = """<!doctype html><title>relay</title>
<video src="/video?prompt=a red circle moves left" autoplay muted controls></video>"""


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    return PAGE


@app.get("/video")
async def video(prompt: str, num_blocks: int | None = None) -> StreamingResponse:
    """An MP4 that grows while it is made; a browser plays it as it comes."""
    session = await client.create(prompt, num_blocks=num_blocks)
    return StreamingResponse(relay(session), media_type="video/mp4", headers={"session": session.name})


async def relay(session: Session) -> AsyncIterator[bytes]:
    try:
        async with client.connect(session) as stream:
            async for event in stream:  # a browser that reads slowly makes the session wait
                if isinstance(event, MediaInit | Segment):
                    yield event.data
    finally:
        # At its end, or when the browser has left: then this is cancelled, and the call goes on all the same.
        await asyncio.shield(client.delete(session))


@app.post("/sessions/{session}/prompt")
async def change(session: str, text: str) -> dict[str, str]:
    receipt = await client.switch(session, text)
    return {"state": receipt.state}


@app.exception_handler(CascadeClientError)
async def refuse(_: Request, error: CascadeClientError) -> JSONResponse:
    status = 400 if isinstance(error, InvalidRequest) else 429 if isinstance(error, Exhausted) else 502
    return JSONResponse({"reason": error.reason, "detail": str(error)}, status)
