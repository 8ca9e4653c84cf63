"""A new session: what is asked, completed and checked before anything is kept."""

import hashlib
from collections.abc import Collection
from secrets import token_hex

from cascade.v1 import common_pb2, session_pb2
from cascade.v1.stage_pb2 import ModelInfo
from cascade_core.errors import UnknownModel
from cascade_core.prompts import readable
from services.common.errors import QueueFull, UnsupportedMedia, with_details
from services.common.prompts import mix_of, transition_of
from services.common.validation import InvalidField
from services.gateway.api.prompts import check_mode, check_offered, check_prompt
from services.gateway.journal import Journal, Limits, NewSession
from services.gateway.journal.errors import NoSuchSession
from services.gateway.journal.lora_sets import kept_loras
from services.gateway.journal.switch_modes import mode_name
from services.gateway.session.shared import Shared

ATTENTIONS = {
    value: name.removeprefix("INFLIGHT_ATTENTION_").lower()
    for name, value in common_pb2.InflightAttention.items()
}
"""As people write them."""
MAX_PROMPTS = 1024
"""Of a timeline, as the contract says."""


def complete(request: session_pb2.CreateSessionRequest, tenant: str, shared: Shared) -> NewSession:
    """The session asked for, with all defaults that do not depend on the model; a repeat of the request gives
    the same."""
    settings = shared.settings.gateway
    spec = session_pb2.SessionSpec()
    spec.CopyFrom(request.spec)
    spec.model = spec.model or settings.default_model
    spec.priority = spec.priority or session_pb2.PRIORITY_NORMAL
    spec.switch_mode = spec.switch_mode or common_pb2.SWITCH_MODE_IMMEDIATE
    if not spec.HasField("seed"):
        seed = hashlib.sha256(f"{tenant}/{request.request_id}".encode()).digest()
        spec.seed = int.from_bytes(seed[:8], "big") >> 1
    if not spec.HasField("idle_timeout"):
        spec.idle_timeout.FromMilliseconds(int(settings.idle_timeout_s * 1000))
    if not spec.profiles:
        spec.profiles.add(id="default")
    for profile in spec.profiles:
        profile.codec = profile.codec or common_pb2.VIDEO_CODEC_H264
        profile.encoder = profile.encoder or common_pb2.VIDEO_ENCODER_SOFTWARE
    leave_digest(spec.start)
    mixes = {block: mix_of(mix) for block, mix in spec.mixes.items()}
    transitions = {block: transition_of(each) for block, each in spec.transitions.items()}
    for block, mix in mixes.items():
        if block not in spec.prompts:
            spec.prompts[block] = readable(mix)
    if len(spec.prompts) > MAX_PROMPTS:
        wrong = f"{len(spec.prompts)} entries together with mixes are more than {MAX_PROMPTS}"
        raise InvalidField([("spec.prompts", wrong)])
    specification, prompts = spec.SerializeToString(deterministic=True), dict(spec.prompts)
    for block in prompts.keys() - {0}:
        del spec.prompts[block]
    spec.ClearField("mixes")
    spec.ClearField("transitions")
    limits = Limits(num_segments=settings.kept_segments, max_bytes=settings.session_bytes)
    return NewSession(
        session=request.session_id or f"s-{token_hex(8)}",
        tenant=tenant,
        specification=specification,
        prompts=prompts,
        request_id=request.request_id,
        limits=limits,
        switch_mode=mode_name(spec.switch_mode),
        loras=kept_loras(spec.loras),
        brief=spec.SerializeToString(deterministic=True),
        mixes=mixes,
        transitions={block: each for block, each in transitions.items() if each},
    )


async def is_known(journal: Journal, tenant: str, request_id: str, *, is_made: bool) -> bool:
    """Whether this request came before. `is_made`: it counts once its session is there, since an earlier try
    may have been cut off."""
    session = await journal.find_request(tenant, request_id)
    if not (session and is_made):
        return bool(session)
    try:
        await journal.summary(session)
    except NoSuchSession:
        return False
    return True


def leave_digest(file: common_pb2.StartFile) -> None:
    """In the place of the file itself, so that a repeat of the request is known by it."""
    if kind := file.WhichOneof("file"):
        setattr(file, kind, hashlib.sha256(getattr(file, kind)).digest())


def check_servable(spec: session_pb2.SessionSpec, shared: Shared) -> None:
    """Raise UnknownModel, UnsupportedMedia, InvalidPrompt or InvalidField where no machine that has reported
    so far could ever serve it.

    While none has reported, as after scaling down to nothing, the session waits in the queue.
    """
    admission = shared.admission
    model = admission.find_model(spec.model)
    if model is None:
        if admission.has_stages:
            known = ", ".join(sorted(admission.models))
            error = UnknownModel(f"model: {spec.model} is not served here; known: {known}")
            raise with_details(error, metadata={"known": known})
        return
    check_mode("spec.switch_mode", spec.switch_mode, admission.offers(spec.model), bool(spec.transitions))
    check_prompts(spec, model, admission.offers(spec.model))
    for field, side in (("spec.width", spec.width), ("spec.height", spec.height)):
        if model.size_multiple and side % model.size_multiple:
            wrong = f"{side} is not a multiple of {model.size_multiple}, which {spec.model} wants"
            raise InvalidField([(field, wrong)])
    if spec.width * spec.height > model.max_pixels:
        size = f"{spec.width}x{spec.height}"
        message = f"{size} is more than {model.max_pixels} pixels in all"
        raise UnsupportedMedia(message, field="spec.width")
    check_schedule(spec, admission.offers(spec.model))
    check_loras("spec.loras", [lora.name for lora in spec.loras], admission.offers(spec.model), spec.model)
    statuses = [peer.status for peer in shared.decoders.peers.values() if peer.status]
    encoders = {encoder for status in statuses for encoder in status.encoders}
    for profile in spec.profiles:
        if encoders and profile.encoder not in encoders:
            name = common_pb2.VideoEncoder.Name(profile.encoder)
            message = f"no decoder here has {name} (profile {profile.id})"
            raise UnsupportedMedia(message, field="spec.profiles")


def check_prompts(spec: session_pb2.SessionSpec, model: ModelInfo, offers: list[ModelInfo]) -> None:
    """Raise InvalidPrompt or InvalidField where no stage could take the timeline."""
    for block, prompt in sorted(spec.prompts.items()):
        if block not in spec.mixes:
            check_prompt(f"spec.prompts[{block}]", prompt, model)
    for block, mix in sorted(spec.mixes.items()):
        check_offered(f"spec.mixes[{block}]", 1, offers)
        for place, part in enumerate(mix.prompts):
            check_prompt(f"spec.mixes[{block}].prompts[{place}].text", part.text, model)
    for block, transition in sorted(spec.transitions.items()):
        check_offered(f"spec.transitions[{block}].num_blocks", transition.num_blocks, offers)


def check_schedule(spec: session_pb2.SessionSpec, offers: list[ModelInfo]) -> None:
    """Raise InvalidField unless some stage allows the stagger, and one of those the attention."""
    asked = ""
    if spec.stagger:
        allowed = {stagger for info in offers for stagger in info.staggers}
        check_allowed("spec.stagger", str(spec.stagger), [str(each) for each in sorted(allowed)], spec.model)
        offers = [info for info in offers if spec.stagger in info.staggers]
        asked = f" with stagger {spec.stagger}"
    if spec.inflight_attention:
        attentions = {attention for info in offers for attention in info.inflight_attentions}
        names = [name for value, name in ATTENTIONS.items() if value in attentions]
        name = ATTENTIONS[spec.inflight_attention]
        check_allowed("spec.inflight_attention", name, names, f"{spec.model}{asked}")


def check_loras(field: str, names: Collection[str], offers: Collection[ModelInfo], model: str) -> None:
    """Raise InvalidField unless some stage lists them all."""
    listed = [{lora.name for lora in info.loras} for info in offers]
    known = sorted(set().union(*listed))
    for name in names:
        if not known:
            raise InvalidField([(field, f"{name} is not offered: no stage of {model} lists a LoRA")])
        check_allowed(field, name, known, model)
    if names and not any(set(names) <= each for each in listed):
        raise InvalidField([(field, f"no stage of {model} lists {' and '.join(names)} together")])


def check_allowed(field: str, asked: str, allowed: list[str], model: str) -> None:
    """Raise InvalidField unless `asked` is one of `allowed`."""
    if not allowed:
        raise InvalidField([(field, f"{asked} is not offered: stages of {model} leave no choice")])
    if asked not in allowed:
        raise InvalidField([(field, f"{asked} is not one of {', '.join(allowed)}, which {model} offers")])


def check_room(tenant: str, num_open: int, priority: int, shared: Shared) -> None:
    """Raise QuotaExceeded, PermissionDenied or QueueFull."""
    shared.quotas.check_priority(tenant, priority)
    shared.quotas.check_sessions(tenant, num_open)
    length = shared.settings.gateway.queue_length
    if shared.admission.queue_length >= length:
        raise QueueFull(f"{length} sessions wait for a place already")
