"""The LoRAs that prompts may have, on the device: what a forward adds follows from each block's choice.

Choices change the ranks and scales that layers meet and nothing else, so that compiled layers serve them all.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from cascade_core.loras import Choice
from cascade_core.model.host_memory import upload
from cascade_core.model.low_rank import MIN_RANK, TARGETS, LayerLow, LowRanks, Stack, Stacks


class LoraBank:
    """The listed LoRAs of one model on its device."""

    @torch.inference_mode()
    def __init__(
        self, loras: Sequence[Stacks], widths: Mapping[str, tuple[int, int]], num_layers: int
    ) -> None:
        """`widths`: K and M of every target. Those that no listed LoRA adds to stay as they are."""
        self._loras = loras
        self.targets = tuple(target for target in TARGETS if any(target in stacks for stacks in loras))
        sample = next(iter(loras[0].values()))
        self._device, self._dtype = sample.a.device, sample.a.dtype
        self._none = {target: self._zeros(num_layers, MIN_RANK, *widths[target]) for target in self.targets}
        self._together: tuple[tuple[int, ...], dict[str, tuple[Stack, Tensor]]] = (), {}
        self._last: tuple[tuple[Choice, ...], LowRanks | None] = (), None

    @property
    def num_bytes(self) -> int:
        """What is kept."""
        return sum(each.num_bytes for stacks in self._loras for each in stacks.values())

    @property
    def copied_bytes(self) -> int:
        """What putting several together can take besides; of one alone nothing is copied."""
        return self.num_bytes if len(self._loras) > 1 else 0

    @torch.inference_mode()
    def low_ranks(self, choices: Sequence[Choice]) -> LowRanks | None:
        """For blocks with these choices, in their order; None where none of them uses any."""
        key = tuple(choices)
        if key != self._last[0]:
            self._last = (), None
            self._last = key, self._low_ranks(key)
        return self._last[1]

    def samples(self, num_blocks: int) -> LayerLow:
        """For compiling: a layer's forms, no two ranks alike."""
        sizes = {target: (MIN_RANK + 1 + at, each) for at, (target, each) in enumerate(self._none.items())}
        return {
            target: (
                each.a.new_zeros(rank, each.a.shape[2]),
                each.b.new_zeros(rank, each.b.shape[2]),
                each.a.new_zeros(num_blocks, 1, rank),
            )
            for target, (rank, each) in sizes.items()
        }

    def _zeros(self, num_layers: int, rank: int, fan_in: int, fan_out: int) -> Stack:
        def zeros(width: int) -> Tensor:
            return torch.zeros(num_layers, rank, width, device=self._device, dtype=self._dtype)

        return Stack(zeros(fan_in), zeros(fan_out))

    def _low_ranks(self, choices: tuple[Choice, ...]) -> LowRanks | None:
        scales = [{place: scale for place, scale in choice if scale} for choice in choices]
        chosen = tuple(sorted(set().union(*scales)))
        if not chosen:
            return None
        if chosen != self._together[0]:
            self._together = (), {}
            self._together = chosen, {target: self._side_by_side(chosen, target) for target in self.targets}
        table = torch.tensor([[own.get(place, 0.0) for place in chosen] for own in scales])
        table = upload(table.to(self._dtype), self._device)
        return LowRanks(tuple(self._layers(table)))

    def _layers(self, table: Tensor) -> Iterable[LayerLow]:
        """`table`: scales [N, number of the chosen]."""
        parts = {
            target: (each.a.unbind(), each.b.unbind(), table[:, owners][:, None])
            for target, (each, owners) in self._together[1].items()
        }
        for layer in range(len(next(iter(parts.values()))[0])):
            yield {target: (a[layer], b[layer], scales) for target, (a, b, scales) in parts.items()}

    def _side_by_side(self, chosen: tuple[int, ...], target: str) -> tuple[Stack, Tensor]:
        """And of each of its rows, which of the chosen it belongs to."""
        having = [
            (at, self._loras[place][target])
            for at, place in enumerate(chosen)
            if target in self._loras[place]
        ]
        stacks = [each for _, each in having] or [self._none[target]]
        rows = [at for at, each in having for _ in range(each.a.shape[1])] or [0] * MIN_RANK
        owners = upload(torch.tensor(rows), self._device)
        if len(stacks) == 1:
            return stacks[0], owners
        return Stack(*(torch.cat([getattr(each, half) for each in stacks], dim=1) for half in "ab")), owners
