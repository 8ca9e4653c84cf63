"""Where pages come from: a gateway in this process whose stage has no model, or real processes."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.services.support.fake_stage import FakeStage
from tests.services.support.front import Front
from tests.services.support.gateway_support import Town, town
from tests.services.support.ports import free_port
from tests.services.support.system import DECODER, GATEWAY, STAGE, Program, System
from tests.services.support.video_support import FilmDecoder

ONE_RANK = STAGE | {"CASCADE_STAGE_NUM_RANKS": "1"}


@asynccontextmanager
async def open_town(
    *,
    capacity: int = 8,
    staggers: Sequence[int] = (1, 2, 3),
    loras: Mapping[str, str] | None = None,
    cutting: Sequence[bool] = (False,),
    **options: Any,
) -> AsyncIterator[Town]:
    """Real segments of grey pictures, made as fast as they are asked for. `capacity`: places of its stage;
    `staggers`, `loras`: what it offers. `cutting`: for each model, the first of which is called demo, whether
    it knows scene cuts."""
    names = "demo", *(f"demo-{number}" for number in range(2, len(cutting) + 1))
    stages = [
        FakeStage(capacity=capacity, staggers=staggers, loras=loras, model=name, scene_cuts=scene_cuts)
        for name, scene_cuts in zip(names, cutting, strict=True)
    ]
    decoders = [FilmDecoder(capacity=8, models=names)]
    async with town(stages=stages, decoders=decoders, **({"http": {}} | options)) as place:
        yield place


class Machines(System):
    """Two stages and a decoder with the demo model, a gateway with HTTP."""

    def __init__(self, folder: Path) -> None:
        self.stages = [Program("stage", number, folder, ONE_RANK) for number in range(2)]
        self.decoders = [Program("decoder", 0, folder, DECODER)]
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        own = {
            "CASCADE_GATEWAY_STAGES": ",".join(stage.address for stage in self.stages),
            "CASCADE_GATEWAY_DECODERS": ",".join(decoder.address for decoder in self.decoders),
            "CASCADE_HTTP_PORT": str(port),
        }
        self.gateways = [Program("gateway", 0, folder, GATEWAY | own)]

    def close(self) -> None:
        for program in self.programs:
            program.close()


@contextmanager
def running_machines() -> Iterator[Machines]:
    """Nothing runs yet: call `ready`."""
    folder = Path(tempfile.mkdtemp(prefix="cascade-browser-"))
    machines = Machines(folder)
    try:
        yield machines
    finally:
        machines.close()
        shutil.rmtree(folder, ignore_errors=True)


class Wire(Front):
    """The network between a browser and the gateway."""

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def cut(self) -> int:
        """All connections, and those to come, until `mend`."""
        self.lead_to([])
        return super().cut()

    def mend(self, url: str) -> None:
        """Lead to this gateway."""
        self.lead_to([url.removeprefix("http://")])


@asynccontextmanager
async def wire_to(url: str) -> AsyncIterator[Wire]:
    wire = Wire()
    await wire.start()
    wire.mend(url)
    try:
        yield wire
    finally:
        await wire.close()
