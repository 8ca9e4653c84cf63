"""The models that sessions can name, as ListModels shows them."""

from cascade.v1 import common_pb2, session_pb2, stage_pb2
from services.gateway.placement.admission import Admission

MAX_MODELS = 256
MAX_LORAS = 64


def list_models(admission: Admission, default: str) -> session_pb2.ListModelsResponse:
    """The default one first, then by name."""
    names = sorted(admission.models, key=lambda name: (name != default, name))
    found = ((admission.find_model(name), admission.offers(name)) for name in names[:MAX_MODELS])
    models = [model_of(info, offers, default) for info, offers in found if info]
    return session_pb2.ListModelsResponse(models=models)


def model_of(info: stage_pb2.ModelInfo, offers: list[stage_pb2.ModelInfo], default: str) -> session_pb2.Model:
    """`offers`: of all stages that have it; a session may ask for what any of them allows."""
    return session_pb2.Model(
        name=info.model,
        licence=info.licence,
        commercial_use=info.commercial_use,
        fps=info.fps,
        width=info.width,
        height=info.height,
        size_multiple=info.size_multiple,
        block_frames=info.block_frames,
        max_blocks=info.max_blocks,
        example_prompts=info.example_prompts,
        max_prompt_tokens=info.max_prompt_tokens,
        is_default=info.model == default,
        staggers=sorted({stagger for offer in offers for stagger in offer.staggers}),
        default_stagger=info.default_stagger,
        inflight_attentions=sorted({each for offer in offers for each in offer.inflight_attentions}),
        default_inflight_attention=info.default_inflight_attention,
        loras=list_loras(offers),
        image_start=info.image_start,
        start_note=info.start_note,
        max_transition_blocks=max((offer.max_transition_blocks for offer in offers), default=0),
        scene_cuts=any(offer.scene_cuts for offer in offers),
    )


def list_loras(offers: list[stage_pb2.ModelInfo]) -> list[common_pb2.LoraInfo]:
    """By name, each as the first stage that lists it says."""
    found = {lora.name: lora for offer in reversed(offers) for lora in offer.loras}
    return [found[name] for name in sorted(found)][:MAX_LORAS]
