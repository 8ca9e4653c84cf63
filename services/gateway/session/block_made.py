"""How a stage made a block, as clients that ask for it are told."""

from cascade.v1 import session_pb2, stage_pb2
from services.common.durations import to_duration
from services.gateway.peers.peer import Peer
from services.gateway.session.attachment import Response

MAX_NAME_CHARS = 256


def block_made(
    block: stage_pb2.GenerateResponse.Block,
    epoch: int,
    peer: Peer[stage_pb2.StageStatus],
    lead_s: float | None = None,
) -> Response | None:
    """None while the stage does not report: two of the numbers are in its status. `lead_s`: see
    JustInTime."""
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
        lead=None if lead_s is None else to_duration(lead_s),
    )
    return Response(block_made=made)
