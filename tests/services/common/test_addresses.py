"""Addresses as people write them: what is meant is taken, the rest is told the right form."""

import pytest

from cascade_core.errors import InvalidConfig
from services.common.environment import load_settings
from services.common.probe import loopback_of
from services.gateway.base.settings import Settings
from services.web.standalone import Settings as WebSettings

NO_HOST = "must be a name or an address without port, such as 0.0.0.0, :: or ::1"
NO_TARGET = "must be HOST:PORT, such as stage:50061, 10.0.0.5:50061 or [fd00::5]:50061"
NO_NETWORK = "must be an address or a network, such as 10.0.0.5, 10.0.0.0/8 or fd00::/8"


def load(**variables: str) -> Settings:
    return load_settings(Settings, {f"CASCADE_{name}": value for name, value in variables.items()})


@pytest.mark.parametrize("name", ["GRPC_HOST", "HTTP_HOST", "TELEMETRY_METRICS_HOST"])
def test_where_to_listen(name: str) -> None:
    section, _, field = name.lower().partition("_")

    def host(text: str) -> str:
        return str(getattr(getattr(load(**{name: text}), section), field))

    for good in ("0.0.0.0", "::", "::1", "fe80::1%eth0", "localhost", "my_host.example"):
        assert host(good) == good
    assert host("[::1]") == "::1"
    for bad in ("[::1]:80", "::1:80x", "localhost:80", "http://localhost", "[localhost]", "[[::1]]", "a b"):
        with pytest.raises(InvalidConfig) as caught:
            host(bad)
        assert NO_HOST in str(caught.value), bad
        assert f"CASCADE_{name}" in str(caught.value)


@pytest.mark.parametrize("name", ["GATEWAY_STAGES", "GATEWAY_DECODERS"])
def test_whom_to_call(name: str) -> None:
    good = ["stage:1", "10.0.0.5:65535", "[::1]:50061", "[fe80::1%eth0]:50061", "dns:53", "dns:///a:1"]
    for text in (*good, "ipv6:[::1]:50061", "unix:/run/s"):
        load(**{name: text})
    told = {
        "::1:50061": "an IPv6 address stands in brackets, such as [::1]:50061",
        "fd00::5:50061": "an IPv6 address stands in brackets, such as [fd00::5]:50061",
        "fe80::1%eth0:50061": "an IPv6 address stands in brackets, such as [fe80::1%eth0]:50061",
    }
    told |= dict.fromkeys(
        ("stage", "[::1]", "fd00::5", "stage:", ":1", "stage:65536", "[10.0.0.5]:1"), NO_TARGET
    )
    told |= dict.fromkeys(("http://stage:1", "[[::1]]:1", "[::1", "stage:1:1", "stage:٣"), NO_TARGET)
    for text, sentence in told.items():
        with pytest.raises(InvalidConfig) as caught:
            load(**{name: text})
        assert sentence in str(caught.value), text
        assert f"CASCADE_{name}" in str(caught.value)


def test_a_pods_own_address_is_of_either_kind() -> None:
    for given in ("fd00::5:50051", "[fd00::5]:50051"):
        assert load(GATEWAY_ADVERTISE=given).gateway.advertise == "[fd00::5]:50051"
    for given in ("10.0.0.5:50051", "[10.0.0.5]:50051"):
        assert load(GATEWAY_ADVERTISE=given).gateway.advertise == "10.0.0.5:50051"
    assert load(GATEWAY_ADVERTISE="gateway-0.gateways:50051").gateway.advertise == "gateway-0.gateways:50051"
    for bad in ("fd00::5", ":50051", "10.0.0.5", "[gate]:1"):
        with pytest.raises(InvalidConfig) as caught:
            load(GATEWAY_ADVERTISE=bad)
        assert NO_TARGET in str(caught.value), bad


def test_the_http_side_alone_is_told_alike() -> None:
    with pytest.raises(InvalidConfig, match=r"CASCADE_WEB_GATEWAY.*such as \[::1\]:50051"):
        load_settings(WebSettings, {"CASCADE_WEB_GATEWAY": "::1:50051"})


@pytest.mark.parametrize("section", ["grpc", "http"])
def test_whom_to_trust(section: str) -> None:
    def networks(text: str) -> list[str]:
        found = getattr(load(**{f"{section}_trusted_proxies".upper(): text}), section).trusted_proxies
        return [str(each) for each in found]

    given = "10.0.0.0/8,10.0.0.5,fd00::/8,::1,::ffff:10.0.0.0/104,::ffff:10.0.0.5,fe80::1%eth0"
    wanted = ["10.0.0.0/8", "10.0.0.5/32", "fd00::/8", "::1/128", "10.0.0.0/8", "10.0.0.5/32", "fe80::1/128"]
    assert networks(given) == wanted
    for bad in ("10.0.0.1/8", "[::1]", "proxy.example", "::1/129", "10.0.0.0/8:80"):
        with pytest.raises(InvalidConfig) as caught:
            networks(bad)
        assert NO_NETWORK in str(caught.value), bad


def test_by_what_name_it_is_reached() -> None:
    given = "Cascade.Example.com,[::1],0:0::1,FD00::5,127.0.0.1"
    assert load(HTTP_HOSTS=given).http.hosts == (
        "cascade.example.com",
        "[::1]",
        "[::1]",
        "[fd00::5]",
        "127.0.0.1",
    )
    with pytest.raises(InvalidConfig, match=r"CASCADE_HTTP_HOSTS.*without port"):
        load(HTTP_HOSTS="cascade.example.com:8080")


def test_a_probe_asks_at_the_loopback_address_of_its_kind() -> None:
    hosts = {"0.0.0.0": "127.0.0.1", "::": "::1", "0::0": "::1", "::1": "::1", "pod": "pod"}
    assert {host: loopback_of(host) for host in hosts} == hosts
