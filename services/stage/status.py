"""The state of a stage as WatchStatus tells it."""

from collections.abc import Hashable, Mapping
from typing import Final

from cascade.v1 import common_pb2, stage_pb2
from cascade_core.config import allowed_attentions, allowed_staggers
from cascade_core.engine.engine import Engine
from cascade_core.prompts import MAX_TRANSITION_BLOCKS
from services.common.durations import to_duration
from services.common.server_info import server_info
from services.stage.opening import ATTENTIONS
from services.stage.stage import Stage

IMAGE_STARTS: Final = {
    "first_frame": common_pb2.IMAGE_START_FIRST_FRAME,
    "clip": common_pb2.IMAGE_START_CLIP,
}

MAX_MESSAGE = 512


class StatusReport:
    """Reads the status of one stage, without waiting."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._server = server_info()

    def read(self) -> stage_pb2.StageStatus:
        stage, engine = self._stage, self._stage.engine
        status = stage_pb2.StageStatus(
            server=self._server,
            state=self.state(),
            message=(stage.complaint() or "")[:MAX_MESSAGE],
            max_sessions=stage.num_slots(),
            num_sessions=len(stage.occupancy),
            world_size=stage.settings.num_ranks,
            accelerators=stage.gpus.accelerators(),
            drain=stage.drain.status(len(stage.occupancy)),
        )
        if engine:
            self._add_engine(status, engine)
        return status

    def state(self) -> common_pb2.ServingState.ValueType:
        """As of now; from any thread."""
        stage = self._stage
        if stage.gpus.quarantine():
            return common_pb2.SERVING_STATE_QUARANTINED
        if stage.drain.begun.is_set():
            return common_pb2.SERVING_STATE_DRAINING
        if not stage.engine:
            return common_pb2.SERVING_STATE_STARTING
        if not stage.engine.status.ready:
            return common_pb2.SERVING_STATE_RESTARTING
        return common_pb2.SERVING_STATE_UNHEALTHY if stage.distrust() else common_pb2.SERVING_STATE_READY

    def _add_engine(self, status: stage_pb2.StageStatus, engine: Engine) -> None:
        now = engine.status
        status.model.CopyFrom(model_info(engine, self._stage.revision, self._stage.lora_digests))
        status.device = now.device.partition(":")[0]
        status.last_tick_time.CopyFrom(to_duration(now.last_tick_s))
        status.median_tick_time.CopyFrom(to_duration(now.median_tick_s))
        status.num_blocks = now.num_blocks
        status.num_restarts = now.num_restarts


def model_info(engine: Engine, revision: str, lora_digests: Mapping[str, str]) -> stage_pb2.ModelInfo:
    config, card, window = engine.config, engine.card, engine.shape.window
    attentions = {name: value for value, name in ATTENTIONS.items()}
    return stage_pb2.ModelInfo(
        model=card.name,
        revision=revision,
        licence=card.licence,
        max_prompt_tokens=card.transformer.text_len,
        commercial_use=card.commercial_use,
        block_frames=window.block_frames,
        sink_blocks=window.sink_blocks,
        context_blocks=window.sink_blocks + window.window_blocks,
        num_passes=card.sampling.num_passes,
        max_blocks=window.max_blocks or 0,
        fps=card.video.fps,
        width=card.video.width,
        height=card.video.height,
        max_pixels=engine.max_pixels,
        size_multiple=card.video.size_multiple,
        example_prompts=card.example_prompts,
        staggers=allowed_staggers(config, card),
        default_stagger=config.stagger,
        inflight_attentions=[attentions[name] for name in allowed_attentions(config)],
        default_inflight_attention=attentions[config.inflight_attention],
        loras=[
            common_pb2.LoraInfo(
                name=lora.name,
                licence=lora.licence,
                commercial_use=lora.commercial_use,
                digest=lora_digests[lora.name],
            )
            for lora in config.loras
        ],
        image_start=IMAGE_STARTS[card.image_start],
        start_note=card.start_note,
        max_transition_blocks=MAX_TRANSITION_BLOCKS,
        scene_cuts=window.can_cut,
    )


def change_of(status: stage_pb2.StageStatus) -> Hashable:
    """What makes two reports differ: not what goes on by itself, which is as new as the report it stands
    in."""
    return (
        status.state,
        "" if status.state == common_pb2.SERVING_STATE_UNHEALTHY else status.message,  # it counts seconds
        status.max_sessions,
        status.num_sessions,
        status.num_blocks,
        status.num_restarts,
        status.HasField("drain"),
        status.drain.reason,
        tuple(gpu.fault for gpu in status.accelerators),
    )
