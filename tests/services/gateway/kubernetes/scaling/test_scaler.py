"""KEDA asks real gateways, through a client generated from its interface, whatever happens around them."""

import asyncio
import json
import random
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.v1 import common_pb2
from externalscaler import externalscaler_pb2 as pb
from services.common.validation import InvalidField
from services.gateway.kubernetes.scaling.servicer import MAX_STREAMS, METHODS, component_of
from tests.paths import ROOT
from tests.services.support.fake_decoder import FakeDecoder
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import fails, until, until_value
from tests.services.support.keda_client import KedaClient, copy_interface, generate
from tests.services.support.redis_support import RedisServer, needs_redis
from tests.services.support.scaler_support import Gateway, scaled

WAIT_S = 60.0
NOBODY = "127.0.0.1:1"
"""Where no stage listens."""


async def fill(gateway: Gateway, *stages: FakeStage) -> None:
    """A session on each place."""
    for _ in range(sum(stage.capacity for stage in stages)):
        await gateway.tenant.create()
    await until(lambda: all(len(stage.sessions) == stage.capacity for stage in stages))


async def queue(gateway: Gateway, number: int) -> None:
    """So many more sessions that wait."""
    before = gateway.registry.shared.admission.queue_length
    for _ in range(number):
        await gateway.tenant.create()
    assert gateway.registry.shared.admission.queue_length == before + number


# One gateway.


async def test_from_no_pod_to_enough() -> None:
    """Nobody is there and nobody ever told how much a pod takes."""
    async with scaled(scaler={"warm_stage_sessions": 0, "assumed_stage_sessions": 2}) as town:
        gateway = await town.add()
        assert await gateway.until_replicas(0) == 0
        assert not await gateway.stage.is_active()
        watch = gateway.stage.watch_active()
        assert not (await watch.read()).result
        await queue(gateway, 5)
        async with asyncio.timeout(WAIT_S):
            assert (await watch.read()).result, "pushed, not asked for"
        assert await gateway.until_replicas(3) == 3
        assert await gateway.stage.is_active()
        watch.cancel()


async def test_a_warm_place_keeps_one_pod() -> None:
    async with scaled() as town:
        gateway = await town.add()
        assert await gateway.until_replicas(1) == 1
        assert await gateway.stage.is_active()
        assert await gateway.decoder.is_active()


async def test_before_all_pods_have_reported_there_is_no_number() -> None:
    """A low one would kill pods. The metric itself is known: without it the HPA would fall back to CPU."""
    async with scaled(stages=[FakeStage(), NOBODY]) as town:
        gateway = await town.add()
        await until(lambda: gateway.registry.shared.admission.has_stages)
        assert (await gateway.stage.spec()).metricName == "cascade-desired-stage-pods"
        with fails("UNAVAILABLE NOT_READY"):
            await gateway.stage.value("cascade-desired-stage-pods")
        with fails("UNAVAILABLE NOT_READY"):
            await gateway.stage.is_active()
        assert gateway.metric("cascade_desired_pods", component="stage") is None
        await until_value(gateway.decoder.replicas, lambda found: found == 1)
        assert gateway.metric("cascade_desired_pods", component="decoder") == 1


async def test_a_pod_that_never_reports_is_not_waited_for_for_long() -> None:
    async with scaled(stages=[NOBODY], scaler={"settle_s": 1.0}) as town:
        gateway = await town.add()
        assert await gateway.until_replicas(1) == 1


async def test_busy_queued_and_spare() -> None:
    stages = [FakeStage(capacity=2), FakeStage(capacity=2)]
    async with scaled(stages=stages, decoders=[FakeDecoder(capacity=100)]) as town:
        gateway = await town.add()
        await gateway.until_replicas(1)
        await fill(gateway, *stages)
        assert await gateway.until_replicas(3) == 3, "two busy ones, and the spare place"
        await queue(gateway, 3)
        assert await gateway.until_replicas(4) == 4
        assert gateway.metric("cascade_desired_pods", component="stage") == 4
        assert gateway.metric("cascade_waiting_sessions", component="stage") == 3
        assert gateway.metric("cascade_queued_sessions") == 3
        assert gateway.metric("cascade_scaler_silence_seconds") == 0
        assert await gateway.decoder.replicas() == 1


async def test_a_quarantined_stage_gets_another_beside_it() -> None:
    stages = [FakeStage(), FakeStage()]
    scaler = {"replace_after_s": 0.2, "scale_down_after_s": 0.0}
    async with scaled(stages=stages, decoders=[FakeDecoder()], scaler=scaler) as town:
        gateway = await town.add()
        await gateway.until_replicas(1)
        stages[0].set_state(common_pb2.SERVING_STATE_UNHEALTHY)
        assert await gateway.until_replicas(2) == 2
        stages[0].set_state(common_pb2.SERVING_STATE_READY)
        assert await gateway.until_replicas(1) == 1


@pytest.mark.parametrize(("after_s", "expected"), [(0.5, 1), (3600.0, 4)])
async def test_it_comes_down_only_after_the_time_set(after_s: float, expected: int) -> None:
    stage, decoders = FakeStage(capacity=1), [FakeDecoder()]
    async with scaled(stages=[stage], decoders=decoders, scaler={"scale_down_after_s": after_s}) as town:
        gateway = await town.add()
        names = [await gateway.tenant.name() for _ in range(3)]
        await gateway.until_replicas(4)
        for name in names:
            await gateway.tenant.delete(name)
        await until(lambda: not gateway.registry.shared.admission.num_busy)
        await until(lambda: gateway.metric("cascade_queued_sessions") == 0)
        assert await gateway.until_replicas(expected) == expected


async def test_all_five_methods_through_protocs_own_stubs(tmp_path: Path) -> None:
    copy_interface(tmp_path)
    generate(tmp_path, f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}")
    async with scaled(stages=[FakeStage()], decoders=[FakeDecoder()]) as town:
        gateway = await town.add()
        await gateway.until_replicas(1)
        command = [sys.executable, "-m", "tests.services.support.keda_client", str(tmp_path)]
        process = await asyncio.create_subprocess_exec(
            *command,
            f"127.0.0.1:{gateway.server.port}",
            "decoder",
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        async with asyncio.timeout(WAIT_S):
            output, _ = await process.communicate()
    assert json.loads(output) == {
        "metric": "cascade-desired-decoder-pods",
        "target": [1, 1.0],
        "value": ["cascade-desired-decoder-pods", 1, 1.0],
        "is_active": True,
        "first_active": True,
        "first_spec": True,
    }


# What is refused.


async def test_wrong_questions_name_the_field() -> None:
    async with scaled() as town:
        gateway = await town.add()
        await gateway.until_replicas(1)
        for component in ("", "stages", "Stage", "x" * 10_000):
            gateway.stage.reference.scalerMetadata["component"] = component
            for ask in (gateway.stage.is_active, gateway.stage.spec):
                with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
                    await ask()
                (violation,) = found[0]["BadRequest"].field_violations
                assert violation.field == 'scalerMetadata["component"]'
                assert violation.description == "must be one of stage, decoder"
            with fails("INVALID_ARGUMENT INVALID_FIELD"):
                await gateway.stage.watch_active().read()
            with fails("INVALID_ARGUMENT INVALID_FIELD"):
                await gateway.stage.watch_spec().read()
            with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
                await gateway.stage.value("cascade-desired-stage-pods")
            assert found[0]["BadRequest"].field_violations[0].field.startswith("scaledObjectRef.")
        for metric in ("cascade-desired-stage-pods", "s0-cascade-desired-decoder-pods", "queue"):
            with fails("INVALID_ARGUMENT INVALID_FIELD") as found:
                await gateway.decoder.value(metric)
            (violation,) = found[0]["BadRequest"].field_violations
            assert (violation.field, violation.description) == (
                "metricName",
                "must be cascade-desired-decoder-pods",
            )


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=5), st.text(max_size=20))
def test_metadata_is_a_component_or_refused(metadata: dict[str, str], component: str) -> None:
    reference = pb.ScaledObjectRef(scalerMetadata=metadata | {"component": component})
    if component in ("stage", "decoder"):
        assert component_of(reference) == component
    else:
        with pytest.raises(InvalidField, match="must be one of stage, decoder"):
            component_of(reference)


async def test_bytes_of_strangers_break_nothing() -> None:
    """Whole messages, cut ones, and noise, to every method."""
    dice = random.Random(5)
    async with scaled() as town:
        gateway = await town.add()
        await gateway.until_replicas(1)
        good = gateway.stage.reference.SerializeToString()
        codes = grpc.StatusCode
        allowed = {codes.INVALID_ARGUMENT, codes.DEADLINE_EXCEEDED, codes.RESOURCE_EXHAUSTED}
        for _ in range(300):
            data = bytearray(good)
            for _ in range(dice.randrange(4)):
                data[dice.randrange(len(data))] = dice.randrange(256)
            data = data[: dice.randrange(len(data) + 1)] + dice.randbytes(dice.randrange(8))
            method = dice.choice(METHODS)
            make = gateway.channel.unary_stream if "Stream" in method else gateway.channel.unary_unary
            call: Any = make(method)(bytes(data), timeout=5.0 if "Stream" not in method else 0.05)
            try:
                await (call.read() if "Stream" in method else call)
            except grpc.aio.AioRpcError as error:
                if error.code() not in allowed:
                    raise AssertionError(f"{method} {bytes(data)!r}") from error
            call.cancel()
        assert await gateway.replicas() == 1


async def test_streams_without_end_are_bounded() -> None:
    async with scaled() as town:
        gateway = await town.add()
        await gateway.until_replicas(1)
        watches = [gateway.stage.watch_spec() for _ in range(MAX_STREAMS)]
        for watch in watches:
            await watch.read()
        with fails("RESOURCE_EXHAUSTED OVERLOADED"):
            await gateway.stage.watch_active().read()
        assert await gateway.stage.is_active()
        for watch in watches:
            watch.cancel()
        await until_value(lambda: first_active(gateway.stage), lambda found: found)


async def first_active(keda: KedaClient) -> bool:
    """False where the stream is refused."""
    watch = keda.watch_active()
    try:
        return bool((await watch.read()).result)
    except grpc.aio.AioRpcError:
        return False
    finally:
        watch.cancel()


# Who may ask.


async def test_keda_needs_no_key_where_clients_do() -> None:
    async with scaled(has_keys=True) as town:
        gateway = await town.add()
        assert await gateway.until_replicas(1) == 1
        gateway.tenant.metadata = ()
        with fails("UNAUTHENTICATED UNAUTHENTICATED"):
            await gateway.tenant.create()
        closed = await town.add(open=False)
        for ask in (closed.stage.is_active, closed.stage.spec, lambda: closed.stage.value("x")):
            with fails("UNAUTHENTICATED UNAUTHENTICATED"):
                await ask()
        for watch in (closed.stage.watch_active(), closed.stage.watch_spec()):
            with fails("UNAUTHENTICATED UNAUTHENTICATED"):
                await watch.read()


async def test_health_knows_the_service() -> None:
    async with scaled() as town:
        gateway = await town.add()
        health = health_pb2_grpc.HealthStub(gateway.channel)
        request = health_pb2.HealthCheckRequest(service="externalscaler.ExternalScaler")

        async def state() -> Any:
            return (await health.Check(request)).status

        await until_value(state, lambda found: found == health_pb2.HealthCheckResponse.SERVING)


# Its end.


async def test_a_gateway_that_drains_answers_to_the_end() -> None:
    stage = FakeStage(capacity=1)
    async with scaled(stages=[stage], decoders=[FakeDecoder()]) as town:
        gateway = await town.add()
        await fill(gateway, stage)
        await gateway.until_replicas(2)
        active, spec = gateway.stage.watch_active(), gateway.stage.watch_spec()
        assert (await active.read()).result
        assert (await spec.read()).metricSpecs
        gateway.server._gate.close()
        with fails("UNAVAILABLE DRAINING"):
            await gateway.tenant.create()
        assert await gateway.replicas() == 2
        await gateway.server.service.drain(0.2)
        async with asyncio.timeout(WAIT_S):
            assert await active.read() is grpc.aio.EOF
            assert await spec.read() is grpc.aio.EOF
            await gateway.server._gate.idle.wait()
        assert await gateway.replicas() == 2


async def test_streams_of_keda_do_not_hold_up_the_end() -> None:
    async with scaled() as town:
        gateway = await town.add()
        await gateway.until_replicas(1)
        watch = gateway.stage.watch_spec()
        assert (await watch.read()).metricSpecs
        async with asyncio.timeout(WAIT_S):
            await gateway.server.close()
        assert await watch.read() is grpc.aio.EOF, "ended, not cut"


# Several gateways.


@needs_redis
async def test_all_gateways_give_one_answer(redis: RedisServer) -> None:
    stages = [FakeStage(capacity=1), FakeStage(capacity=1)]
    async with scaled(stages=stages, decoders=[FakeDecoder(capacity=100)], redis=redis) as town:
        first, second, third = [await town.add() for _ in range(3)]
        await first.until_replicas(1)
        await fill(first, *stages)
        await queue(first, 2)
        await queue(second, 1)
        for gateway in (first, second, third):
            assert await gateway.until_replicas(6) == 6, "two busy, three queued, one spare"
            assert gateway.metric("cascade_desired_pods", component="stage") == 6
        await until(lambda: third.metric("cascade_queued_sessions") == 3)


@needs_redis
async def test_while_redis_is_away(redis: RedisServer) -> None:
    stages = [FakeStage(capacity=1), FakeStage(capacity=1)]
    decoders = [FakeDecoder(capacity=100)]
    scaler = {"others_kept_s": 1.0, "scale_down_after_s": 1.0}
    async with scaled(stages=stages, decoders=decoders, redis=redis, scaler=scaler) as town:
        first, second = [await town.add() for _ in range(2)]
        patient = await town.add(others_kept_s=3600.0)
        await fill(first, *stages)
        await queue(second, 3)
        for gateway in (first, second, patient):
            await gateway.until_replicas(6)
        redis.kill()
        assert await first.until_replicas(3) == 3, "two busy, one spare; the other's queue has aged out"
        assert await second.replicas() == 6, "its own queue is live"
        assert await patient.replicas() == 6, "the last known"
        assert first.metric("cascade_scaler_silence_seconds") > 0
        assert await first.stage.is_active()
        late = await town.add(settle_s=0.5)
        assert await late.until_replicas(3) == 3, "started in the outage, and never below busy"
        redis.start()
        for gateway in (first, second, late):
            assert await gateway.until_replicas(6) == 6
        await until(lambda: first.metric("cascade_scaler_silence_seconds") < 1)


@needs_redis
async def test_no_answer_waits_for_a_redis_that_hangs(redis: RedisServer) -> None:
    async with scaled(stages=[FakeStage()], decoders=[FakeDecoder()], redis=redis) as town:
        gateway = await town.add()
        await gateway.until_replicas(1)
        redis.freeze()
        try:
            before = gateway.metric("cascade_scaler_silence_seconds")
            for _ in range(50):
                assert await gateway.replicas() == 1
            await until(lambda: gateway.metric("cascade_scaler_silence_seconds") > before + 1)
            assert await gateway.replicas() == 1
        finally:
            redis.thaw()


@needs_redis
async def test_gateways_are_replaced_one_by_one(redis: RedisServer) -> None:
    """A rollover as a Deployment makes it, and KEDA asks all that are there, all the time."""
    stages = [FakeStage(capacity=1, block_s=0.01) for _ in range(3)]
    decoders = [FakeDecoder(capacity=100)]
    async with scaled(stages=stages, decoders=decoders, redis=redis) as town:
        alive = [await town.add() for _ in range(2)]
        await fill(alive[0], *stages)
        await queue(alive[1], 2)
        for gateway in alive:
            await gateway.until_replicas(6)
        answers: list[int] = []
        asking = asyncio.Lock()

        async def poll() -> None:
            while alive:
                async with asking:
                    answers.extend([found for gateway in alive if (found := await gateway.replicas())])
                await asyncio.sleep(0.01)

        polling = asyncio.create_task(poll())
        for _ in range(2):
            new = await town.add()
            await until_value(new.replicas, lambda found: found is not None)
            old = alive[0]
            alive.append(new)
            await old.server.close()
            async with asking:
                alive.remove(old)
            await old.close()
            enough = len(answers) + 50
            await until(lambda enough=enough: len(answers) >= enough)
        for gateway in alive:
            await until_value(gateway.replicas, lambda found: found is not None)
        alive.clear()
        await polling
        assert min(answers) >= 6, "neither busy ones nor the queue are forgotten on the way"
        assert max(answers) <= 12, "nor counted more than twice"


@needs_redis
async def test_the_queue_of_a_gateway_that_dies_is_forgotten(redis: RedisServer) -> None:
    """It is killed: it says no goodbye to the others, who take its sessions over."""
    async with scaled(decoders=[FakeDecoder()], redis=redis) as town:
        first, second = [await town.add() for _ in range(2)]
        await queue(first, 4)
        await until(lambda: second.metric("cascade_queued_sessions") == 4)
        first.registry.is_leaving = True
        first.making.cancel()
        await asyncio.gather(first.registry.close(), first.server._port.stop(0))
        admission = second.registry.shared.admission
        await until(lambda: redis.command("HLEN", "cascade:{scaler}:gateways") == ":1\r\n")
        await until(lambda: second.metric("cascade_queued_sessions") == admission.queue_length)
        assert await second.replicas() == 5, "hysteresis bridges the takeover"
