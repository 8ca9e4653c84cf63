"""What a session needs of a stage and a decoder, and the place it holds on one of them."""

import asyncio
from dataclasses import dataclass
from typing import Generic, Protocol

from cascade.v1 import common_pb2, session_pb2
from cascade.v1.decoder_pb2 import DecoderStatus
from cascade.v1.stage_pb2 import StageStatus
from services.gateway.peers.peer import Peer, S

EVERYWHERE = frozenset({common_pb2.VIDEO_ENCODER_UNSPECIFIED, common_pb2.VIDEO_ENCODER_SOFTWARE})


@dataclass(frozen=True)
class Wish:
    """What a session asks for."""

    session: str
    tenant: str
    model: str
    revision: str = ""
    """ModelInfo.revision that the stage must have; empty: any."""
    width: int = 0
    """Pixels; 0: the model's default."""
    height: int = 0
    encoders: frozenset[int] = frozenset()
    """VideoEncoder values that the decoder must have; SOFTWARE every decoder has."""
    priority: int = session_pb2.PRIORITY_NORMAL
    """Priority value; UNSPECIFIED counts as NORMAL."""
    is_resumed: bool = False
    """It had a place before: ahead of new ones of its priority."""

    @property
    def rank(self) -> tuple[int, bool]:
        """Ascending: who is served first."""
        return -(self.priority or session_pb2.PRIORITY_NORMAL), not self.is_resumed

    @property
    def need(self) -> tuple[object, ...]:
        """Equal where the same servers do."""
        return self.model, self.revision, self.width * self.height, self.encoders


def stage_fits(status: StageStatus, wish: Wish) -> bool:
    """Whether the stage could run the session, if it had a free place."""
    info = status.model
    return (
        info.model == wish.model
        and wish.revision in ("", info.revision)
        and wish.width * wish.height <= info.max_pixels
    )


def decoder_fits(status: DecoderStatus, wish: Wish) -> bool:
    """Whether the decoder could decode the session, if it had a free place."""
    return wish.model in status.models and wish.encoders - EVERYWHERE <= set(status.encoders)


class Accounts(Protocol[S]):
    """Who keeps account of slots: `ledger.Ledger`."""

    def release(self, slot: "Slot[S]") -> None: ...
    def blame(self, slot: "Slot[S]") -> None: ...
    def praise(self, slot: "Slot[S]") -> None: ...
    def offer(self, slot: "Slot[S]") -> None: ...
    def withdraw(self, slot: "Slot[S]") -> None: ...


class Slot(Generic[S]):
    """One session's place on one peer, from its grant to `release`."""

    def __init__(
        self, accounts: Accounts[S], peer: Peer[S], session: str, era: int, granted_s: float
    ) -> None:
        """`era`: how often the peer had failed before. `granted_s`: the clock now."""
        self.peer = peer
        self.session = session
        self.era = era
        self.granted_s = granted_s
        self.instance_id = peer.instance_id
        self.revoked = asyncio.Event()
        """Somebody else needs the place: release it within ten seconds."""
        self.is_open = False
        """Known to be open there."""
        self.is_released = False
        self._accounts = accounts

    @property
    def is_current(self) -> bool:
        """Whether the process that it was granted on is still there."""
        return not self.peer.is_gone and self.peer.instance_id == self.instance_id

    def release(self) -> None:
        """Give the place back, once the stream there is over; again: nothing."""
        self._accounts.release(self)

    def blame(self) -> None:
        """The peer failed the session: nothing goes there for 1 s, twice as long after each further failure,
        at most 30 s. Sessions that fail together count as one failure."""
        self._accounts.blame(self)

    def praise(self) -> None:
        """The peer serves the session: earlier failures are forgotten. So does a release without blame."""
        self._accounts.praise(self)

    def offer(self) -> None:
        """Paused: the place may be taken away where somebody needs it and no other is free."""
        self._accounts.offer(self)

    def withdraw(self) -> bool:
        """Not offered any more. False: too late, it is revoked."""
        self._accounts.withdraw(self)
        return not self.revoked.is_set()
