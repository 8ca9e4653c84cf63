"""What a session needs of a stage and of a decoder."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from cascade.v1 import common_pb2, session_pb2
from cascade.v1.decoder_pb2 import DecoderStatus
from cascade.v1.stage_pb2 import ModelInfo, StageStatus

BEHIND_S = 5.0
MAX_MESSAGE = 512
EVERYWHERE = frozenset({common_pb2.VIDEO_ENCODER_UNSPECIFIED, common_pb2.VIDEO_ENCODER_SOFTWARE})


@dataclass(frozen=True)
class Needs:
    """What a place must offer, and whose it will be."""

    session: str
    tenant: str
    model: str
    revision: str = ""
    """ModelInfo.revision that the stage must have; empty: any."""
    width: int = 0
    """Pixels; 0: the model's default."""
    height: int = 0
    encoders: frozenset[int] = frozenset()
    """VideoEncoder values that the decoder must have; every decoder has SOFTWARE."""
    stagger: int = 0
    """Stagger that the stage must allow; 0: its default will do."""
    inflight_attention: int = common_pb2.INFLIGHT_ATTENTION_UNSPECIFIED
    """InflightAttention value that the stage must allow; UNSPECIFIED: its default will do."""
    loras: frozenset[tuple[str, str]] = frozenset()
    """Names of LoRAs that the stage must list, each with its digest; an empty one: any."""
    scene_cuts: bool = False
    """The stage must know cuts."""
    num_mixed: int = 0
    """Blocks that a transition must be able to have at the stage; 1: it must know mixes."""
    first_frame: bool = False
    """The stage must begin with a picture as the first latent frame."""
    kept: tuple[int, int] | None = None
    """First and newest blocks whose latents are kept: the stage must not ask for more; None: not begun."""
    priority: int = session_pb2.PRIORITY_NORMAL
    """Priority value; UNSPECIFIED counts as NORMAL."""
    is_resumed: bool = False
    """It had a place before: ahead of new ones of its priority."""

    @property
    def rank(self) -> tuple[int, bool]:
        """Ascending: who is served first."""
        return -(self.priority or session_pb2.PRIORITY_NORMAL), not self.is_resumed

    @property
    def key(self) -> tuple[object, ...]:
        """Equal where the same servers do."""
        pixels, schedule = self.width * self.height, (self.stagger, self.inflight_attention)
        own = self.loras, self.scene_cuts, self.num_mixed, self.first_frame, self.kept
        return self.model, self.revision, pixels, schedule, self.encoders, *own


def of_model(model: str, revision: str) -> Needs:
    """The needs that all sessions of this model have in common."""
    return Needs(session="", tenant="", model=model, revision=revision)


def stage_fits(status: StageStatus, needs: Needs) -> bool:
    """Whether the stage could run the session, if it had a free place."""
    info = status.model
    return (
        info.model == needs.model
        and needs.revision in ("", info.revision)
        and needs.width * needs.height <= info.max_pixels
        and needs.stagger in (0, *info.staggers)
        and needs.inflight_attention in (0, *info.inflight_attentions)
        and (needs.kept is None or needs_no_more(info, *needs.kept))
        and all(is_met(info) for is_met in abilities(needs).values())
    )


def needs_no_more(info: ModelInfo, num_first: int, num_newest: int) -> bool:
    """Whether it asks a session for no more blocks than so many; another card may look back further."""
    return info.sink_blocks <= num_first and info.context_blocks <= num_newest


def abilities(needs: Needs) -> dict[str, Callable[[ModelInfo], bool]]:
    """What not every stage of the model can do, by what people are told that it does."""
    found: dict[str, Callable[[ModelInfo], bool]] = {}
    if needs.loras:
        names = sorted(name for name, _ in needs.loras)
        what = f"LoRA {names[0]}" if len(names) == 1 else f"the LoRAs {', '.join(names)} together"
        file = " from the session's own file" if any(digest for _, digest in needs.loras) else ""
        found[f"lists {what}{file}"] = lambda info: not lacks_a_lora(info, needs)
    if needs.scene_cuts:
        found["makes scene cuts"] = lambda info: info.scene_cuts
    if needs.num_mixed:
        what = "mixes" if needs.num_mixed == 1 else f"transitions of {needs.num_mixed} blocks"
        found[f"takes {what}"] = lambda info: info.max_transition_blocks >= needs.num_mixed
    if needs.first_frame:
        picture = common_pb2.IMAGE_START_FIRST_FRAME
        found["begins with a picture"] = lambda info: info.image_start == picture
    return found


def lacks_a_lora(info: ModelInfo, needs: Needs) -> bool:
    """Whether the stage does not list one as it is needed."""
    listed = {lora.name: lora.digest for lora in info.loras}
    return any(name not in listed or digest not in ("", listed[name]) for name, digest in needs.loras)


def what_lacks(infos: Collection[ModelInfo], needs: Needs) -> str:
    """For people: the abilities that keep it from all of these stages; empty: none do."""
    needed, infos = abilities(needs), [info for info in infos if info.model == needs.model]
    if not needed or any(all(is_met(info) for is_met in needed.values()) for info in infos):
        return ""
    nowhere = [what for what, is_met in needed.items() if not any(map(is_met, infos))]
    return f"no stage {' and '.join(nowhere or needed)} now"[:MAX_MESSAGE]


def decoder_fits(status: DecoderStatus, needs: Needs) -> bool:
    """Whether the decoder could decode the session, if it had a free place."""
    return needs.model in status.models and needs.encoders - EVERYWHERE <= set(status.encoders)


def is_behind(status: DecoderStatus) -> bool:
    """Whether what waits there will take so long that players notice. As the operator view says it."""
    return status.num_pending_blocks * status.last_block_time.ToTimedelta().total_seconds() > BEHIND_S
