"""What a client may send when: the order of a Decode stream, without any waiting."""

from cascade.v1 import common_pb2, decoder_pb2
from services.common.errors import ProtocolViolation
from services.common.validation import InvalidField, check_tensor
from services.decoder.admission import Open

Request = decoder_pb2.DecodeRequest


class Order:
    """Warm-up blocks, blocks, close; each block in its place, and not too many unanswered."""

    def __init__(self, opening: Open, latent_shape: tuple[int, ...], max_pending: int) -> None:
        self.num_pending = 0
        """Blocks taken and not answered, warm-up blocks apart."""
        self.is_closed = False
        self._next_block = opening.start_block - opening.num_warmup_blocks
        self._start_block = opening.start_block
        self._latent_shape = latent_shape
        self._max_pending = max_pending

    def take(self, request: Request) -> common_pb2.LatentBlock | None:
        """The block that came, or None for close. Raises ProtocolViolation or InvalidField."""
        kind = request.WhichOneof("message")
        if self.is_closed:
            raise ProtocolViolation(f"{kind} after close")
        if kind == "open":
            raise ProtocolViolation("open comes once, as the first message")
        if kind == "close":
            self.close()
            return None
        self._take_block(request.block)
        return request.block

    def close(self) -> None:
        """Also what the half-close means."""
        if self._next_block < self._start_block:
            missing = self._start_block - self._next_block
            raise ProtocolViolation(f"the stream was closed with {missing} warm-up blocks to come")
        self.is_closed = True

    def is_warmup(self, block: common_pb2.LatentBlock) -> bool:
        return block.index < self._start_block

    def _take_block(self, block: common_pb2.LatentBlock) -> None:
        if block.index != self._next_block:
            raise ProtocolViolation(f"block {block.index} came where {self._next_block} belongs")
        if self.num_pending >= self._max_pending:
            raise ProtocolViolation(f"{self.num_pending} blocks are unanswered, which is all that may be")
        check_latents(block.latents, self._latent_shape)
        self.num_pending += not self.is_warmup(block)
        self._next_block += 1


def check_latents(latents: common_pb2.Tensor, shape: tuple[int, ...]) -> None:
    """Raise InvalidField where they are not those of the session."""
    if tuple(latents.shape) != shape:
        wrong = f"must be {list(shape)} for this model and size, not {list(latents.shape)}"
        raise InvalidField([("block.latents.shape", wrong)])
    check_tensor("block.latents", latents)
