"""Switch modes by name, as the journal keeps them, and by number, as the contracts do."""

from cascade.v1 import common_pb2
from services.gateway.journal.record import SwitchMode

MODES: dict[SwitchMode, "common_pb2.SwitchMode.ValueType"] = {
    "immediate": common_pb2.SWITCH_MODE_IMMEDIATE,
    "boundary": common_pb2.SWITCH_MODE_BOUNDARY,
    "recache": common_pb2.SWITCH_MODE_RECACHE,
    "cut": common_pb2.SWITCH_MODE_CUT,
}


def mode_name(mode: "common_pb2.SwitchMode.ValueType") -> SwitchMode:
    """UNSPECIFIED is immediate."""
    return next((name for name, number in MODES.items() if number == mode), "immediate")
