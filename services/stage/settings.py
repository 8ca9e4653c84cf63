"""Settings of a stage: `CASCADE_STAGE_<FIELD>`, or `[stage]` in the settings file."""

from dataclasses import field, fields
from typing import Annotated

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import InitErrorDetails, PydanticCustomError

from cascade_core.config import STRICT, EngineConfig, ModelCard, Stagger, check_engine, find_card
from cascade_core.errors import InvalidConfig
from services.common.interconnect import Interconnect
from services.common.settings import GpuSettings, PeerGrpcSettings, Port, ServerSettings


@dataclass(frozen=True, config=STRICT)
class StageSettings(EngineConfig, GpuSettings):
    """The engine's settings, under its own names, and the stage's."""

    model: str = "demo"
    """Name of a model card, or path of a `.toml` card."""
    stagger: Stagger = 2
    """Passes a block makes before its successor starts: 1 is the full cascade, P is sequential. For sessions
    that ask for none."""
    interconnect: Interconnect = "p2p"
    """What each pair of the ranks' GPUs must have, or the stage is quarantined at its start. p2p: they read
    and write each other's memory, over NVLink or PCIe. nvlink: over NVLink. none: whatever there is; without
    P2P a tick waits for the host's memory. Without effect with one rank or on a CPU."""
    status_interval_s: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """Longest silence of WatchStatus where the watcher names none."""
    drain_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    """Time sessions have to move away where a Drain call names none."""

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: str) -> str:
        find_card(model)
        return model

    @model_validator(mode="after")
    def _check_stage(self) -> "StageSettings":
        try:
            check_engine(self.engine(), self.card())
        except InvalidConfig as error:  # one field is to blame, and the complaint is to name its source
            name, _, wrong = str(error).partition(": ")
            problem = PydanticCustomError("engine", "{wrong}", {"wrong": wrong})
            line = InitErrorDetails(type=problem, loc=(name,), input=getattr(self, name))
            raise ValidationError.from_exception_data("stage", [line]) from None
        return self

    def card(self) -> ModelCard:
        """Raises UserError where there is none."""
        return find_card(self.model)

    def engine(self) -> EngineConfig:
        """The engine's part alone: it travels to the ranks, which know no services."""
        return EngineConfig(**{known.name: getattr(self, known.name) for known in fields(EngineConfig)})


@dataclass(frozen=True, config=STRICT)
class StageGrpcSettings(PeerGrpcSettings):
    """As PeerGrpcSettings, on a port of its own."""

    port: Port = 50061


@dataclass(frozen=True, config=STRICT)
class Settings(ServerSettings):
    """All sections of a stage."""

    grpc: StageGrpcSettings = field(default_factory=StageGrpcSettings)
    stage: StageSettings = field(default_factory=StageSettings)
