"""Puts a scaler together."""

import time
from typing import Any

from services.gateway.base.settings import Settings
from services.gateway.journal import connect_by
from services.gateway.kubernetes.scaling.component import Component, Sizes
from services.gateway.kubernetes.scaling.pods import Pods
from services.gateway.kubernetes.scaling.scaler import Scaler
from services.gateway.kubernetes.scaling.shared import SharedDemand
from services.gateway.peers.pool import Pool
from services.gateway.placement.admission import Admission

NUM_SILENT_INTERVALS = 3


def make_scaler(settings: Settings, owner: str, admission: Admission, *pools: Pool[Any]) -> Scaler:
    """For the stages and the decoders of these pools. `owner`: this gateway's life."""
    section = settings.scaler
    sizes = {
        "stage": Sizes(section.warm_stage_sessions, section.assumed_stage_sessions, section.crowd_factor),
        "decoder": Sizes(
            section.warm_decoder_sessions, section.assumed_decoder_sessions, section.crowd_factor
        ),
    }
    components = [
        Component(
            pool.kind,
            Pods(pool, admission.ledger(pool.kind), section.replace_after_s, time.monotonic),
            sizes[pool.kind],
            section.scale_down_after_s,
            section.hpa_tolerance,
            time.monotonic,
        )
        for pool in pools
    ]
    return Scaler(section, admission, components, make_shared(settings, owner))


def make_shared(settings: Settings, owner: str) -> SharedDemand | None:
    """None without Redis: this gateway is the only one."""
    section, gateway = settings.scaler, settings.gateway
    if gateway.redis_url is None:
        return None
    return SharedDemand(
        connect_by(gateway),
        gateway.redis_prefix,
        owner,
        window_s=section.scale_down_after_s,
        ttl_s=NUM_SILENT_INTERVALS * section.interval_s,
    )
