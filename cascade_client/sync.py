"""The client without `async`: the same calls and streams, on an event loop in a thread behind them."""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Concatenate, ParamSpec, Self

from cascade_client.channel import Tls
from cascade_client.client import Client
from cascade_client.events import Event, MediaInit
from cascade_client.loop_thread import LoopThread, Owner, blocking, iterate, iterating
from cascade_client.playback import Playback
from cascade_client.save import save as save_stream
from cascade_client.stream import Stream

P = ParamSpec("P")


class SyncStream(Owner[Stream]):
    """Made by `SyncClient.connect`; use it in `with` and iterate it once. All that is said of Stream holds.

    with client.connect(session) as stream:
        for event in stream:
            if isinstance(event, MediaInit | Segment):
                player.feed(event.data)
    """

    switch = blocking(Stream.switch)
    pause = blocking(Stream.pause)
    resume = blocking(Stream.resume)
    end = blocking(Stream.end)
    frames = iterating(Stream.frames)
    save = blocking(save_stream)

    def __enter__(self) -> Self:
        """Attach. Raises CascadeClientError."""
        self._thread.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.run(self._inner.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[Event]:
        return self.events()

    def events(self, within_s: float | None = None) -> Iterator[Event]:
        """As iterating the stream, with a deadline for each event: raises TimeoutError, after which iterating
        can go on."""
        return iterate(self._thread, self._inner, within_s)

    def ack(self, sequence: int, playback: Playback | None = None) -> None:
        """As Stream.ack. Raises ValueError."""

        async def ack() -> None:
            self._inner.ack(sequence, playback)

        self._thread.run(ack())

    @property
    def name(self) -> str:
        """`sessions/{session_id}`."""
        return self._inner.name

    @property
    def resume_token(self) -> str:
        """The newest token. A secret."""
        return self._inner.resume_token

    @property
    def last_sequence(self) -> int:
        """Of the newest segment that iterating has given out."""
        return self._inner.last_sequence

    @property
    def media_init(self) -> MediaInit | None:
        """The newest that iterating has given out."""
        return self._inner.media_init

    @property
    def num_repeated(self) -> int:
        """Segments that came once more and were dropped."""
        return self._inner.num_repeated


def opening(
    connect: Callable[Concatenate[Client, P], Stream],
) -> Callable[Concatenate["SyncClient", P], SyncStream]:
    def call(client: "SyncClient", /, *args: P.args, **options: P.kwargs) -> SyncStream:
        return SyncStream(connect(client._inner, *args, **options), client._thread)

    call.__doc__ = connect.__doc__
    return call


class SyncClient(Owner[Client]):
    """Talks to a gateway; calls, arguments and errors are those of Client. Safe to share between threads.

    with SyncClient("localhost:50051") as client:
        session = client.create("a red circle moves left", num_blocks=40)
        with client.connect(session) as stream:
            stream.save("video.mp4")
    """

    def __init__(
        self,
        target: str,
        *,
        api_key: str | None = None,
        tls: Tls | None = None,
        deadline_s: float = 10.0,
        retry_for_s: float = 30.0,
    ) -> None:
        """As Client. Raises ValueError for a target that is no address."""
        client = Client(target, api_key=api_key, tls=tls, deadline_s=deadline_s, retry_for_s=retry_for_s)
        super().__init__(client, LoopThread(at_end=client.close))

    create = blocking(Client.create)
    connect = opening(Client.connect)
    get = blocking(Client.get)
    list = iterating(Client.list)
    delete = blocking(Client.delete)
    pause = blocking(Client.pause)
    resume = blocking(Client.resume)
    switch = blocking(Client.switch)
    issue_token = blocking(Client.issue_token)
    models = blocking(Client.models)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connections, and cancel what other threads still wait for."""
        self._thread.close()
