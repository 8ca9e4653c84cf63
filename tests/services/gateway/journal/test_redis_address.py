"""Redis as people have it: TLS with an authority of their own, ACL users, passwords that change, Sentinel."""

import asyncio
import itertools
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from cascade_client.checks.redis import ping
from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.gateway.base.settings import GatewaySettings
from services.gateway.journal import RedisStore, ReplicatedJournal, connect
from services.gateway.journal.errors import StoreUnavailable
from services.gateway.journal.redis_address import RedisFiles
from tests.paths import ROOT
from tests.services.support.certificates import Authority
from tests.services.support.gateway_support import town
from tests.services.support.journal_support import blocks, caught_up, opened, until
from tests.services.support.ports import free_port, needs_ipv6
from tests.services.support.redis_support import RedisServer, SentinelServer, needs_redis

pytestmark = needs_redis
numbers = itertools.count(1)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """With a user `cascade`, who may do what docs/production.md says."""
    server = RedisServer(persistent=False, tcp=True, requirepass="admin")
    words = " ".join((ROOT / "docs" / "production.md").read_text().split())
    (allowed,) = re.findall(r"`ACL SETUSER cascade on >PASSWORD (~cascade:\* .*?)`", words)
    answer = server.command("ACL", "SETUSER", "cascade", "on", ">first", "~test:*", *allowed.split())
    assert "OK" in answer
    yield server
    server.close()


def journal_of(client: Redis) -> ReplicatedJournal:
    return ReplicatedJournal(RedisStore(client, "test"), retry_s=(0.01, 0.05))


async def check_plays(journal: ReplicatedJournal) -> None:
    """It keeps what it is given, and closes."""
    lease = await opened(journal, session=f"s{next(numbers)}")
    await journal.write(lease, *blocks(0, 3))
    await caught_up(journal)
    await journal.close()


async def says(server: RedisServer, text: str, *words: str) -> None:
    """Until it does. One that becomes a replica cuts its connections."""

    def met() -> bool:
        with suppress(ConnectionError):
            return text in server.command(*words)
        return False

    await until(lambda: asyncio.to_thread(met))


def write(path: Path, text: str) -> None:
    path.write_text(text)


def remove(path: Path) -> None:
    path.unlink()


@needs_ipv6
async def test_over_ipv6() -> None:
    server = RedisServer(persistent=False, tcp=True, bind="::1")
    try:
        url = f"redis://[::1]:{server._options['port']}/0"
        await check_plays(journal_of(connect(url)))
        assert await asyncio.to_thread(ping, url) == "+PONG", "as cascade doctor asks"
    finally:
        server.close()


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return Authority(tmp_path / "ca")

    @pytest.fixture
    def server(self, authority: Authority) -> Iterator[RedisServer]:
        certificate, key = authority.issue("redis")
        files = {"tls_cert_file": str(certificate), "tls_key_file": str(key)}
        server = RedisServer(
            persistent=False, tls_port=str(free_port()), tls_ca_cert_file=str(authority.path), **files
        )
        yield server
        server.close()

    def url(self, server: RedisServer, query: str = "") -> str:
        return f"rediss://127.0.0.1:{server._options['tls-port']}/0{query}"

    async def test_an_authority_and_a_client_certificate(
        self, server: RedisServer, authority: Authority, tmp_path: Path
    ) -> None:
        certificate, key = authority.issue("gateway")
        await check_plays(journal_of(connect(self.url(server), RedisFiles(authority.path, certificate, key))))
        query = f"?ssl_ca_certs={authority.path}&ssl_certfile={certificate}&ssl_keyfile={key}"
        await check_plays(journal_of(connect(self.url(server, query))))
        stranger = Authority(tmp_path / "stranger")
        for files in (
            RedisFiles(stranger.path, certificate, key),
            RedisFiles(authority.path),
            RedisFiles(authority.path, *stranger.issue("gateway")),
        ):
            store = RedisStore(connect(self.url(server), files), "test")
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await store.load("s1")
            await store.close()

    async def test_files_that_are_renewed_hold_for_the_next_connection(
        self, server: RedisServer, authority: Authority, tmp_path: Path
    ) -> None:
        own = RedisFiles(tmp_path / "ca.crt", tmp_path / "tls.crt", tmp_path / "tls.key")
        stranger = Authority(tmp_path / "stranger")

        def renew(signer: Authority) -> None:
            pair = signer.issue("gateway")
            for path, source in zip((own.ca, own.certificate, own.key), (signer.path, *pair), strict=True):
                assert path
                path.write_bytes(source.read_bytes())

        renew(stranger)
        store = RedisStore(connect(self.url(server), own), "test")
        with pytest.raises(StoreUnavailable):
            await store.num_open("acme")
        renew(authority)
        assert await store.num_open("acme") == 0
        await store.close()

    def test_files_that_cannot_work_are_told_at_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "no.pem").write_text("no certificate")
        with pytest.raises(InvalidConfig, match=r"^gateway\.redis_ca, redis_certificate, redis_key: "):
            connect("rediss://a", RedisFiles(ca=tmp_path / "no.pem"))
        with pytest.raises(InvalidConfig, match=r"redis_url must be rediss://"):
            connect("redis://a", RedisFiles(ca=tmp_path / "no.pem"))
        (tmp_path / "password").write_text("x")
        with pytest.raises(InvalidConfig, match=r"^gateway\.redis_password_file: .*leave one out") as refused:
            connect("redis://:secret@a", RedisFiles(password=tmp_path / "password"))
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"redis_ca": "no.pem"}, "redis_ca needs redis_url"),
        ({"redis_password_file": "/no/such", "redis_url": "redis://a"}, "redis_password_file: no file"),
        (
            {"redis_key": "/no/such", "redis_url": "rediss://a"},
            "redis_certificate and redis_key come",
        ),
    ],
)
def test_settings_that_cannot_work(fields: dict[str, str], told: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(bytes(32))
    with pytest.raises(InvalidConfig, match=told):
        make(GatewaySettings, {"token_key_file": tmp_path / "token", **fields})


class TestPasswords:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "password").write_text("first\n")
        return tmp_path / "password"

    async def test_a_user_of_an_acl(self, redis: RedisServer, file: Path) -> None:
        await check_plays(journal_of(connect(f"redis://cascade:first@{redis.address}/0")))
        files = RedisFiles(password=file)
        await check_plays(journal_of(connect(f"redis://cascade@{redis.address}/0", files)))
        write(file, "admin")
        await check_plays(journal_of(connect(f"redis://{redis.address}", RedisFiles(password=file))))

    async def test_sessions_go_on_through_a_rotation(
        self, redis: RedisServer, file: Path, tmp_path: Path
    ) -> None:
        """Both passwords are taken for a while; each connection is made anew once."""
        (tmp_path / "token").write_bytes(bytes(32))
        values = {"redis_url": f"redis://cascade@{redis.address}/0", "redis_password_file": file}
        own = {"token_key_file": tmp_path / "token", "advertise": "127.0.0.1:1"}
        async with town(**values, **own) as place:
            name = await place.anybody.name(num_blocks=40)
            async with place.anybody.attached(name, acks=False) as stream:
                await stream.until_segments(4)
                redis.command("ACL", "SETUSER", "cascade", ">second")
                write(file, "second\n")
                redis.command("ACL", "SETUSER", "cascade", "<first")
                redis.command("CLIENT", "KILL", "USER", "cascade")
                stream.acks = True
                await stream.ack(4)
                await stream.until_over()
            assert stream.sequences == list(range(1, 41))
            assert stream.end_reason == "COMPLETE"
            assert "recovery" not in " ".join(stream.kinds)
            assert await place.anybody.name()

    async def test_a_file_that_changes_later_than_redis(self, redis: RedisServer, file: Path) -> None:
        journal = journal_of(connect(f"redis://cascade@{redis.address}/0", RedisFiles(password=file)))
        lease = await opened(journal)
        redis.command("ACL", "SETUSER", "cascade", "resetpass", ">second")
        redis.command("CLIENT", "KILL", "USER", "cascade")
        await journal.write(lease, *blocks(0, 3))
        await until(lambda: not journal.is_connected)
        remove(file)
        await journal.write(lease, *blocks(3, 6))
        assert not journal.is_connected
        write(file, "second")
        await caught_up(journal)
        assert journal.is_connected
        await journal.close()

    async def test_a_connection_that_is_nobodys_any_more_is_made_anew(
        self, redis: RedisServer, file: Path
    ) -> None:
        client = connect(f"redis://cascade@{redis.address}/0", RedisFiles(password=file))
        store = RedisStore(client, "test")
        assert await store.num_open("acme") == 0
        await client.execute_command("RESET")  # as some proxies do when a credential has run out
        with pytest.raises(StoreUnavailable):
            await store.num_open("acme")
        assert await store.num_open("acme") == 0
        await store.close()

    async def test_what_a_user_may_not_do_is_refused_in_one_sentence(
        self, redis: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        redis.command("ACL", "SETUSER", "cascade", "resetkeys", "~other:*")
        store = RedisStore(connect(f"redis://cascade:first@{redis.address}/0"), "test")
        with pytest.raises(StoreUnavailable, match="refused the call"):
            await store.num_open("acme")
        assert "no permissions to access" in caplog.text.lower()
        await store.close()


class TestSentinel:
    @pytest.fixture
    def pair(self) -> Iterator[tuple[RedisServer, RedisServer]]:
        """Primary and replica, which want a password."""
        password = dict.fromkeys(("requirepass", "masterauth"), "pw")
        both = [
            RedisServer(persistent=False, tcp=True, repl_diskless_sync_delay="0", **password)
            for _ in range(2)
        ]
        both[1].command("REPLICAOF", *both[0].address.split(":"))
        yield both[0], both[1]
        for each in both:
            each.close()

    @pytest.fixture
    def sentinel(self, pair: tuple[RedisServer, RedisServer]) -> Iterator[SentinelServer]:
        server = SentinelServer("main", pair[0].address, "pw")
        yield server
        server.close()

    async def test_the_address_follows_the_primary(
        self, pair: tuple[RedisServer, RedisServer], sentinel: SentinelServer
    ) -> None:
        """When it is told to go, and when it is killed; the first Sentinel of the address is down."""
        url = f"redis+sentinel://:pw@127.0.0.1:1,{sentinel.address}/main"
        journal = journal_of(connect(url))
        lease = await opened(journal)
        await journal.write(lease, *blocks(0, 3))
        first, second = pair
        await says(second, "test:{s1}:data", "KEYS", "*")
        await until(lambda: asyncio.to_thread(sentinel.knows_replica))
        assert "OK" in sentinel.command("SENTINEL", "FAILOVER", "main")
        await says(second, "role:master", "INFO", "replication")
        await journal.write(lease, *blocks(3, 6))
        await caught_up(journal)
        reader = journal_of(connect(url))
        assert (await reader.load("s1")).next_stage_block == 6
        await says(first, "master_link_status:up", "INFO", "replication")
        await until(lambda: asyncio.to_thread(sentinel.knows_replica))
        second.kill()
        await journal.write(lease, *blocks(6, 9))
        await caught_up(journal)
        assert "role:master" in first.command("INFO", "replication")
        for each in (journal, reader):
            await each.close()

    async def test_tls_and_passwords_of_both(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path / "ca")
        certificate, key = authority.issue("redis")
        tls = {
            "tls_cert_file": str(certificate),
            "tls_key_file": str(key),
            "tls_ca_cert_file": str(authority.path),
            "tls_auth_clients": "no",
            "tls_replication": "yes",
        }
        write(tmp_path / "password", "pw")
        port = str(free_port())
        primary = RedisServer(persistent=False, tls_port=port, requirepass="pw", **tls)
        sentinel = SentinelServer(
            "main", f"127.0.0.1:{port}", "pw", tls_port=str(free_port()), requirepass="own", **tls
        )
        try:
            address = f"127.0.0.1:{sentinel._options['tls-port']}/main"
            files = RedisFiles(ca=authority.path, password=tmp_path / "password")
            await check_plays(
                journal_of(connect(f"rediss+sentinel://{address}?sentinel_password=own", files))
            )
            store = RedisStore(connect(f"rediss+sentinel://{address}", files), "test")
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                await store.num_open("acme")
            await store.close()
        finally:
            sentinel.close()
            primary.close()

    async def test_a_name_that_sentinel_does_not_know(
        self, sentinel: SentinelServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        store = RedisStore(connect(f"redis+sentinel://{sentinel.address}/other"), "test")
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await store.num_open("acme")
        assert "No master found for 'other'" in caplog.text
        await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:6379",
        "redis+sentinel://:secret@a:26379",
        "redis+sentinel://:secret@a:b/primary",
        "redis+sentinel://:secret@a,,b/primary",
        "redis://:secret@a:1,b:2/0",
        "redis://:sec/ret@a:1/0",
        "redis://:secret@a/0?unknown=1",
    ],
)
def test_an_address_that_is_none_is_told_without_its_password(url: str) -> None:
    with pytest.raises(InvalidConfig, match=r"^gateway\.redis_url: ") as refused:
        connect(url)
    assert "sec" not in str(refused.value)
