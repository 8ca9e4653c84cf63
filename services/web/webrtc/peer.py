"""One player's WebRTC connection. All of it runs in the loop of `RtcThread`."""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from aiortc import (
    InvalidStateError,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpCodecCapability,
    RTCRtpSender,
    RTCSessionDescription,
)

from services.web.webrtc.packets import VideoPacket
from services.web.webrtc.track import PacketTrack, Sent, Told

MAX_MESSAGE_BYTES = 64 * 1024
MAX_TEXTS = 64
"""That wait for the channel of the player; the oldest give way."""
MAX_BUFFERED_BYTES = 2**20
"""Of messages that a player has not taken; further ones are dropped."""


def h264() -> list[RTCRtpCodecCapability]:
    """Its forms, as aiortc knows them."""
    codecs = RTCRtpSender.getCapabilities("video").codecs
    return [each for each in codecs if each.mimeType == "video/H264"]


class BadOffer(Exception):
    """It says what is wrong with it."""


class Peer:
    """Sends one video, and text both ways over the data channel that the player may open."""

    def __init__(self, heard: Callable[[str], object], changed: Callable[[str], object], told: Told) -> None:
        """`heard` takes texts of the player, `changed` the states of the connection."""
        self._heard = heard
        self._changed = changed
        self._track = PacketTrack(told)
        self._texts: deque[str] = deque(maxlen=MAX_TEXTS)
        self._channel: RTCDataChannel | None = None
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._connection.on("connectionstatechange", self._tell_state)
        self._connection.on("datachannel", self._take_channel)

    async def answer(self, offer: str) -> str:
        """The description for the player. Raises BadOffer."""
        try:
            transceiver = self._connection.addTransceiver(self._track, direction="sendonly")
            transceiver.setCodecPreferences(h264())
            await self._connection.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        except Exception as error:  # the parser raises what it comes across
            raise BadOffer(f"the offer cannot be answered: {error or type(error).__name__}") from error
        return str(self._connection.localDescription.sdp)

    def put(self, packets: Sequence[VideoPacket], sent: Sent) -> None:
        """A segment."""
        self._track.put(packets, sent)

    def tell(self, text: str) -> None:
        """To the player, once it has opened a channel, and as long as it takes what comes."""
        self._texts.append(text)
        self._flush()

    def _flush(self) -> None:
        channel = self._channel
        while self._texts and channel and channel.readyState == "open":
            text = self._texts.popleft()
            if channel.bufferedAmount < MAX_BUFFERED_BYTES:
                with suppress(InvalidStateError):
                    channel.send(text)

    async def close(self) -> None:
        await self._connection.close()

    def _tell_state(self) -> None:
        self._changed(self._connection.connectionState)

    def _take_channel(self, channel: RTCDataChannel) -> None:
        """The first is the one; a player has no use for others."""
        if self._channel is None:
            self._channel = channel
            channel.on("message", self._take_message)
            self._flush()

    def _take_message(self, message: str | bytes) -> None:
        if isinstance(message, str) and len(message) <= MAX_MESSAGE_BYTES:
            self._heard(message)
