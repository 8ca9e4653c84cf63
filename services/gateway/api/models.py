"""The models that sessions can name, as ListModels shows them."""

from cascade.v1 import session_pb2, stage_pb2
from services.gateway.placement.admission import Admission

MAX_MODELS = 256


def list_models(admission: Admission, default: str) -> session_pb2.ListModelsResponse:
    """The default one first, then by name."""
    names = sorted(admission.models, key=lambda name: (name != default, name))
    found = (admission.find_model(name) for name in names[:MAX_MODELS])
    return session_pb2.ListModelsResponse(models=[model_of(info, default) for info in found if info])


def model_of(info: stage_pb2.ModelInfo, default: str) -> session_pb2.Model:
    return session_pb2.Model(
        name=info.model,
        licence=info.licence,
        commercial_use=info.commercial_use,
        fps=info.fps,
        width=info.width,
        height=info.height,
        block_frames=info.block_frames,
        max_blocks=info.max_blocks,
        example_prompts=info.example_prompts,
        max_prompt_tokens=info.max_prompt_tokens,
        is_default=info.model == default,
    )
