"""How a stage made a block, as clients that ask for it are told."""

from cascade.v1 import session_pb2, stage_pb2
from services.gateway.peers.peer import Peer
from services.gateway.session.attachment import Response

MAX_NAME_CHARS = 256


def block_made(
    block: stage_pb2.GenerateResponse.Block, epoch: int, peer: Peer[stage_pb2.StageStatus]
) -> Response | None:
    """None while the stage does not report: two of the numbers are in its status."""
    if peer.status is None:
        return None
    made = session_pb2.ConnectResponse.BlockMade(
        block=block.block.index,
        epoch=epoch,
        latency=block.latency,
        ticks=block.ticks,
        num_ranks=peer.status.world_size,
        num_passes=peer.status.model.num_passes,
        stage=(peer.pod.name if peer.pod else peer.address)[:MAX_NAME_CHARS],
    )
    return Response(block_made=made)
