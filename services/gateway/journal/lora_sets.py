"""LoRAs of a prompt as the journal keeps them, and as the contracts do."""

from collections.abc import Iterable

from cascade.v1 import common_pb2
from services.gateway.journal.record import Loras


def kept_loras(choices: Iterable[common_pb2.LoraChoice]) -> Loras:
    """An unset scale is 1."""
    return tuple((each.name, each.scale if each.HasField("scale") else 1.0) for each in choices)


def lora_choices(loras: Loras) -> list[common_pb2.LoraChoice]:
    return [common_pb2.LoraChoice(name=name, scale=scale) for name, scale in loras]


def lora_set(loras: Loras) -> common_pb2.LoraSet:
    return common_pb2.LoraSet(loras=lora_choices(loras))
