"""The stages, or the decoders: how many pods there should be, by all that one gateway knows."""

from collections.abc import Callable
from dataclasses import dataclass

from services.gateway.kubernetes.scaling.demand import (
    desired_pods,
    num_expected,
    num_replicas,
    past_tolerance,
    usual_sessions,
)
from services.gateway.kubernetes.scaling.pods import Pods
from services.gateway.kubernetes.scaling.shared import Counts, Heard, Said
from services.gateway.kubernetes.scaling.window import Window
from services.gateway.peers.reports import Kind


@dataclass(frozen=True)
class Sizes:
    """Settings of one component."""

    num_spare: int
    """Places to keep free."""
    assumed_sessions: int
    """Per pod, until one has reported how many it takes."""
    crowd_factor: float = 0.0
    """Sessions to expect for each that came with a crowd."""


class Component:
    """Belongs to one event loop; `look` makes the number, `desired` is it."""

    def __init__(
        self,
        kind: Kind,
        pods: Pods,
        sizes: Sizes,
        window_s: float,
        tolerance: float,
        clock: Callable[[], float],
    ) -> None:
        self.kind = kind
        self.pods = pods
        self.desired: int | None = None
        """Pods to ask for; None: any number would be wrong."""
        self._sizes = sizes
        self._window = Window(window_s, clock)
        self._tolerance = tolerance
        self._clock = clock
        self._offer: int | None = None
        self._offer_heard: int | None = None
        self._told_s = clock()
        """When the others were last told what was wished."""

    def look(self, counts: Counts, *, is_settled: bool) -> None:
        """Make the number anew. Before all is settled, only what others wished counts."""
        pods = self.pods.look()
        self._offer = usual_sessions(pods) or self._offer
        offer = self._offer or self._offer_heard or self._sizes.assumed_sessions
        if is_settled:
            num_waiting = counts.waiting(self.kind)
            num_present = num_waiting + sum(pod.num_sessions for pod in pods)
            num_coming = num_expected(counts.crowd, num_present, self._sizes.crowd_factor)
            self._window.note(desired_pods(pods, num_waiting + num_coming, self._sizes.num_spare, offer))
        wish = self._window.highest()
        self.desired = None if wish is None else past_tolerance(wish, num_replicas(pods), self._tolerance)

    def say(self) -> Said:
        """What to tell the other gateways."""
        return Said(self.kind, self._window.highest_own(self._clock() - self._told_s), self._offer)

    def hear(self, heard: Heard, told_s: float) -> None:
        """What all say. `told_s`: clock when they were told."""
        self._window.share(heard.wishes)
        self._offer_heard = heard.offer
        self._told_s = told_s
