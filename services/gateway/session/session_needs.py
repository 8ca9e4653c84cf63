"""What a session needs of a stage and of a decoder, as its record tells."""

import json
from collections.abc import Collection
from dataclasses import replace

from cascade.v1.stage_pb2 import ModelInfo
from services.gateway.journal import Noted, Record, RunningSession
from services.gateway.journal.ruling import num_mixed_needed
from services.gateway.placement.needs import Needs, what_lacks
from services.gateway.session import views
from services.gateway.session.live import LiveSession

LORA_FILES = "lora_files"
"""Name of the journal's note."""


def running_of(live: LiveSession, needs: frozenset[str], lacks: frozenset[str]) -> RunningSession:
    """As other gateways hear of it."""
    its = needs_of(live)
    loras = f"/{sorted(its.loras)}" if its.loras else ""  # as a former release says it of those without
    kind = f"{its.model}/{its.revision}/{its.width * its.height}/{sorted(its.encoders)}{loras}"
    return RunningSession(its.session, its.model, its.revision, kind, needs, lacks)


def needs_of(live: LiveSession, *, is_resumed: bool = False) -> Needs:
    """What the session needs of a stage and of a decoder."""
    spec, model = live.spec, views.model_of(live.record)
    limits = live.record.limits
    files = lora_files(live.record)
    return Needs(
        session=live.record.session,
        tenant=live.record.tenant,
        model=spec.model,
        revision=model.revision,
        width=spec.width,
        height=spec.height,
        encoders=frozenset(profile.encoder for profile in spec.profiles),
        stagger=live.asked.stagger,
        inflight_attention=live.asked.inflight_attention,
        loras=frozenset((name, files.get(name, "")) for name in live.record.loras_needed()),
        scene_cuts=live.record.has_cuts,
        num_mixed=num_mixed_needed(live.record),
        first_frame=live.record.first_frame is not None,
        kept=(limits.num_sink_blocks, limits.num_recent_blocks) if model.model else None,
        priority=spec.priority,
        is_resumed=is_resumed,
    )


def lacks_of(live: LiveSession) -> str:
    """For people: what no stage that is there can do for it; empty: nothing."""
    return live.shared.admission.what_lacks(needs_of(live))


def lora_files(record: Record) -> dict[str, str]:
    """Digests of the LoRAs that it needs, by name; none of one that no stage of it has listed yet."""
    found: dict[str, str] = json.loads(record.notes.get(LORA_FILES, b"{}"))
    return found


def lists_loras(live: LiveSession, offers: Collection[ModelInfo], names: Collection[str]) -> ModelInfo | None:
    """The stage whose files a switch means that names these: the session's own. While it has none, but had
    one, of those that it may come to (`offers`) the one that agrees most with that; None: whichever comes."""
    if live.stage or not live.record.notes.get(views.MODEL):
        return live.stage
    needs = needs_of(live)
    needs = replace(needs, loras=needs.loras | {(name, "") for name in names})
    before = {(lora.name, lora.digest) for lora in live.last_stage.loras} if live.last_stage else set()

    def agreement(info: ModelInfo) -> int:
        return sum(lora.name in names and (lora.name, lora.digest) in before for lora in info.loras)

    return max((info for info in offers if not what_lacks([info], needs)), key=agreement, default=None)


def lora_files_noted(record: Record, stage: ModelInfo | None, chosen: Collection[str] = ()) -> list[Noted]:
    """What is to be noted of them at this stage, once these are chosen as well. A digest is forgotten when
    the session does not need the LoRA any more, so that it may choose what is listed under its name then."""
    needed, known = record.loras_needed(), lora_files(record)
    listed = {lora.name: lora.digest for lora in stage.loras} if stage else {}
    files = {name: listed[name] for name in (*needed, *chosen) if name in listed}
    files |= {name: known[name] for name in needed if name in known}
    return [Noted(LORA_FILES, json.dumps(files).encode())] if files != known else []
