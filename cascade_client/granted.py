"""Wishes that a gateway granted. One that is lost may have stored none of them: then they are told again."""

from collections.abc import Collection

from cascade.v1.session_pb2 import ConnectRequest

MAX_SWITCHES = 16


class Granted:
    """The newest switches, in their order, and the last pause or resumption. All have request ids, so that a
    session which knows them takes no notice."""

    def __init__(self) -> None:
        self._switches: dict[str, ConnectRequest] = {}
        self._paused: ConnectRequest | None = None

    def note(self, message: ConnectRequest) -> None:
        """It was granted."""
        if message.HasField("set_paused"):
            self._paused = message
        elif message.HasField("switch_prompt"):
            self._switches[message.switch_prompt.request_id] = message
            if len(self._switches) > MAX_SWITCHES:
                del self._switches[next(iter(self._switches))]

    def heard_accepted(self, request_id: str) -> None:
        """Of a switch, as it happens: somebody else's takes the place of ours."""
        if request_id not in self._switches:
            self._switches.clear()

    def heard_paused(self, paused: bool) -> None:
        """As it happens: somebody else wants it otherwise."""
        if self._paused and self._paused.set_paused.paused != paused:
            self._paused = None

    def take_unknown(self, receipts: Collection[str], paused: bool) -> dict[str, ConnectRequest]:
        """What a session does not know that has receipts for these request ids and is paused or not: switches
        after the newest that it knows, since that one took the place of those before. Each once, until it is
        granted again."""
        lost: dict[str, ConnectRequest] = {}
        for request_id, message in self._switches.items():
            lost = {} if request_id in receipts else {**lost, request_id: message}
        for request_id in lost:
            del self._switches[request_id]
        if self._paused and self._paused.set_paused.paused != paused:
            lost[self._paused.set_paused.request_id], self._paused = self._paused, None
        return lost
