"""A process on broken hardware: it stays, says why, takes nothing, and its sessions move to another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import combinations
from pathlib import Path
from typing import Any

import pynvml
import pytest

from cascade.v1 import common_pb2
from services.common.health import LIVE
from services.decoder.service import NAME as DECODER
from services.gateway.app.assembly import running
from services.stage.service import NAME as STAGE
from services.stage.stage import Stage, StartFailed
from tests.engine_support import wait_until, write_card
from tests.services.common.test_gpus import FakeNvml
from tests.services.common.test_health import NOT_SERVING, SERVING, until
from tests.services.support import decoder_support, stage_support
from tests.services.support.decoder_support import opening
from tests.services.support.gateway_support import AttachedStream, Tenant, gateway_settings, open_channel
from tests.services.support.stage_support import WAIT_S, Running, stage_settings

QUARANTINED, READY = common_pb2.SERVING_STATE_QUARANTINED, common_pb2.SERVING_STATE_READY
RANKS = {"device": "auto", "num_ranks": 2, "gpu_check_interval_s": 0.02}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    nvml = FakeNvml()
    monkeypatch.setattr("services.common.gpus.driver", lambda: nvml)
    return nvml


@pytest.fixture
def card(tmp_path: Path) -> Path:
    return write_card(tmp_path)


class TestStage:
    @pytest.mark.slow
    async def test_its_sessions_are_told_to_move(self, card: Path, nvml: FakeNvml) -> None:
        async with stage_support.serving(stage_settings(card, stage=RANKS)) as stage:
            await until(stage.channel, SERVING, STAGE)
            stream = await stage.opened(credit_end_block=1)
            await stream.blocks(1)
            nvml.events.append((1, 79))
            assert 0 < (await stream.expect("draining")).time_left.ToSeconds() <= 300
            status = await stage.until(QUARANTINED)
            assert status.message == "GPU 1: Xid 79"
            assert [gpu.fault for gpu in status.accelerators] == ["", "Xid 79"]
            assert (status.drain.reason, status.drain.num_sessions) == ("quarantined: GPU 1: Xid 79", 1)
            for name in ("", STAGE):
                await until(stage.channel, NOT_SERVING, name)
            await until(stage.channel, SERVING, LIVE)
            refused = stage.generate()
            await refused.open()
            assert await refused.reason() == "DRAINING"
            await stream.credit(2)
            await stream.blocks(1)
            await stream.close()
            await wait_until(lambda: not stage.stage.occupancy, "the session has left")
            status = await stage.status()
            assert (status.state, status.drain.safe_to_delete) == (QUARANTINED, True)
            assert stage.metric("cascade_quarantined", reason_class="xid") == 1

    async def test_what_changes_nothing(self, card: Path, nvml: FakeNvml) -> None:
        """Errors of an application; and GPUs that do not reach each other where they do not have to."""
        nvml.unconnected = {pynvml.NVML_P2P_CAPS_INDEX_READ: {(0, 1)}}
        section = RANKS | {"interconnect": "none"}
        async with stage_support.serving(stage_settings(card, stage=section)) as stage:
            await until(stage.channel, SERVING, STAGE)
            stream = await stage.opened(credit_end_block=1)
            nvml.events += [(gpu, xid) for gpu in (0, 1) for xid in (13, 31, 43, 45, 68, 109)]
            await wait_until(lambda: not nvml.events, "they are seen")
            read = stage.stage.gpus._latest
            await wait_until(lambda: stage.stage.gpus._latest is not read, "the GPUs are read again")
            assert (await stage.status()).state == READY
            await stream.blocks(1)
            await stream.close()

    async def test_gpus_that_do_not_reach_each_other(self, card: Path, nvml: FakeNvml) -> None:
        """No model is loaded on them, and nobody ends the process."""
        pairs = set(combinations(range(2), 2))
        nvml.unconnected = {pynvml.NVML_P2P_CAPS_INDEX_READ: pairs}
        async with stage_support.serving(stage_settings(card, stage=RANKS)) as stage:
            assert stage.stage.engine is None
            status = await stage.until(QUARANTINED)
            why = "(chipset not supported)"
            assert status.message == f"GPU 0: no P2P to GPU 1 {why}; GPU 1: no P2P to GPU 0 {why}"
            await until(stage.channel, NOT_SERVING, STAGE)
            assert (await stage.status()).drain.safe_to_delete
            await until(stage.channel, SERVING, LIVE)
            refused = stage.generate()
            await refused.open()
            assert await refused.reason() == "DRAINING"

    async def test_fewer_gpus_than_ranks(self, card: Path, nvml: FakeNvml) -> None:
        section = RANKS | {"num_ranks": 3}
        async with stage_support.serving(stage_settings(card, stage=section)) as stage:
            status = await stage.until(QUARANTINED)
            assert status.message == "3 ranks need as many GPUs, 2 are visible"

    async def test_a_gpu_that_breaks_while_the_model_loads(
        self, card: Path, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process stays, instead of starting again and again on the same GPU."""

        async def fail(stage: Stage) -> None:
            nvml.events.append((0, 62))
            await wait_until(stage.gpus.quarantine, "it is seen")
            raise StartFailed("CUDA error")

        monkeypatch.setattr(Stage, "_load", fail)
        async with stage_support.serving(stage_settings(card, stage=RANKS)) as stage:
            assert (await stage.until(QUARANTINED)).message == "GPU 0: Xid 62"

    async def test_a_model_that_cannot_be_loaded_on_good_gpus_ends_the_process(
        self, card: Path, nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(stage: Stage) -> None:
            raise StartFailed("no weights")

        monkeypatch.setattr(Stage, "_load", fail)
        with pytest.raises(StartFailed, match="no weights"):
            async with stage_support.serving(stage_settings(card, stage=RANKS)):
                pass


class TestDecoder:
    async def test_its_sessions_are_told_to_move(self, nvml: FakeNvml) -> None:
        async with decoder_support.serving(decoder={"gpu_check_interval_s": 0.02}) as decoder:
            call = decoder.call()
            await call.send(opening())
            await call.opened()
            await call.ask(0)
            nvml.events.append((0, 48))
            await call.expect("draining")
            status = await decoder.until(lambda status: status.state == QUARANTINED)
            assert (status.message, status.drain.num_sessions) == ("GPU 0: Xid 48", 1)
            await until(decoder.channel, NOT_SERVING, DECODER)
            await until(decoder.channel, SERVING, LIVE)
            refused = decoder.call()
            await refused.send(opening())
            assert await refused.fails() == "DRAINING"
            await call.ask(1)
            call.stream.cancel()
            await decoder.until(lambda status: status.drain.safe_to_delete)
            registry = decoder.server.telemetry.registry
            assert registry.get_sample_value("cascade_quarantined", {"reason_class": "xid"}) == 1


class TestSessions:
    """Real stages and a real decoder, each on GPUs of its own, behind a real gateway."""

    @pytest.mark.slow
    async def test_they_go_on_elsewhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        drivers = [FakeNvml() for _ in range(2)]
        async with demo_stages(drivers, monkeypatch) as stages, decoder_support.serving() as decoder:
            addresses = [f"127.0.0.1:{stage.server.port}" for stage in stages]
            settings = gateway_settings(addresses, [f"127.0.0.1:{decoder.server.port}"], open_timeout_s=30)
            async with running(settings) as (server, _), open_channel(server.port) as channel:
                tenant = Tenant(channel, None)
                async with tenant.attached(await tenant.name(num_blocks=8), acks=False) as stream:
                    await follow(stream, 3)
                    (broken,) = (one for one in stages if one.stage.occupancy)
                    (sound,) = (one for one in stages if one is not broken)
                    drivers[stages.index(broken)].events.append((0, 79))
                    await wait_until(lambda: sound.stage.occupancy, "the session has moved")
                    await follow(stream, 8)
                    await asyncio.wait_for(stream.until_over(), WAIT_S)
                assert stream.sequences == list(range(1, 9))
                assert stream.end_reason == "COMPLETE"
                assert not broken.stage.occupancy
                async with tenant.attached(await tenant.name(num_blocks=2)) as stream:
                    await asyncio.wait_for(stream.until_over(), WAIT_S)
                assert stream.sequences == [1, 2], "the next session finds the one that is left"
                assert broken.metric("cascade_stage_blocks_total") < 8


async def follow(stream: AttachedStream, sequence: int) -> None:
    """Acknowledge one segment after the other, up to this one."""
    for number in range(len(stream.sequences) + 1, sequence + 1):
        async with asyncio.timeout(WAIT_S):
            await stream.until_segments(number)
        await stream.ack(number)


@asynccontextmanager
async def demo_stages(
    drivers: list[FakeNvml], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Running]]:
    """One for each driver."""
    given: Any = iter(drivers)
    monkeypatch.setattr("services.common.gpus.driver", lambda: next(given, None) or FakeNvml())
    section = RANKS | {"num_ranks": 1, "weights": None}
    settings = stage_settings("demo", stage=section)
    async with stage_support.serving(settings) as one, stage_support.serving(settings) as other:
        yield [one, other]
