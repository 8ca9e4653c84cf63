"""Events as lines for people."""

from collections.abc import Sequence

from cascade_client.events import (
    Ended,
    Event,
    PromptReceipt,
    QueueChanged,
    Reconnected,
    RecoveryDone,
    RecoveryStarted,
    Skipped,
    StateChanged,
)


def describe(event: Event) -> str:
    """One line for people; empty where there is nothing to say."""
    match event:
        case QueueChanged():
            eta = "" if event.eta_s is None else f", about {event.eta_s:.0f} s"
            lacks = f" ({event.message})" if event.message else ""
            return f"queue: place {event.position} of {event.queue_length}{eta}{lacks}"
        case StateChanged(state="ENDED"):
            return ""
        case StateChanged():
            return f"state: {describe_state(event.state, event.paused)}"
        case PromptReceipt(state="APPLIED"):
            words = f"; {unknown_words(event.unknown_words)}" if event.unknown_words else ""
            when = event.touched_time_s or 0.0
            return f"prompt: seen from {when:.1f} s on (block {event.first_block_touched}){words}"
        case PromptReceipt(state="REFUSED"):
            return f"prompt: refused: {event.error}"
        case PromptReceipt():
            return "prompt: accepted"
        case RecoveryStarted():
            return f"recovery: {event.cause.lower().replace('_', ' ')}; rebuilding"
        case RecoveryDone():
            return f"recovery: done after {event.gap_s:.1f} s ({event.recovery_class.lower()})"
        case Reconnected():
            return f"reconnected after {event.gap_s:.1f} s: {event.reason}"
    return ""


def describe_watched(event: Event, slow: str) -> str:
    """The same for who did not start the session. `slow`: what is too slow where segments are skipped."""
    match event:
        case Skipped():
            return f"skipped segments {event.first_sequence} to {event.next_sequence - 1}: {slow} is too slow"
        case Ended():
            return f"the session has ended: {event.reason.lower()}"
    return describe(event)


def unknown_words(words: Sequence[str]) -> str:
    return f"unknown words: {', '.join(words)}"


def describe_end(reason: str) -> str:
    """Not `deleted`: nobody ends what is finished in another way, and its video is where it was saved."""
    usual = {"COMPLETE": "complete", "DELETED": "ended"}
    return usual.get(reason) or f"ended ({reason.lower().replace('_', ' ')})"


def describe_state(state: str, is_pause_wanted: bool) -> str:
    """The state, and what is about to come of a wish to pause or to go on."""
    if state == "PAUSED" and not is_pause_wanted:
        return "paused, goes on soon"
    if state == "ACTIVE" and is_pause_wanted:
        return "active, pauses soon"
    return state.lower()
