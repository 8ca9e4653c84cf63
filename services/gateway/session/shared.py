"""What all sessions of a gateway share."""

import time
from dataclasses import dataclass

from cascade.v1.decoder_pb2 import DecoderStatus
from cascade.v1.stage_pb2 import StageStatus
from services.common.resume_tokens import ResumeTokens
from services.gateway.base.quotas import Quotas
from services.gateway.base.settings import Settings
from services.gateway.journal import Journal
from services.gateway.journal.errors import StoreUnavailable
from services.gateway.peers.pool import Pool
from services.gateway.placement.admission import Admission
from services.gateway.session.metrics import GatewayMetrics
from services.gateway.session.traces import BlockTraces


@dataclass(frozen=True)
class Shared:
    """One per process."""

    settings: Settings
    owner: str
    """This process's life, for leases: `ADDRESS/INSTANCE`."""
    journal: Journal
    admission: Admission
    stages: Pool[StageStatus]
    decoders: Pool[DecoderStatus]
    quotas: Quotas
    tokens: ResumeTokens
    metrics: GatewayMetrics
    traces: BlockTraces

    def now_ms(self) -> int:
        """Wall clock, since 1970, by which all gateways go; this machine's own until the journal knows it."""
        try:
            return int(self.journal.clock() * 1000)
        except StoreUnavailable:
            return int(time.time() * 1000)

    @property
    def address(self) -> str:
        """Where other gateways reach this one."""
        return self.owner.partition("/")[0]
