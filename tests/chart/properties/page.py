"""The page's port: open for those who may where it is on, and closed everywhere where it is off."""

from tests.chart.installation import Installation, everywhere
from tests.chart.network import ELSEWHERE, HTTP, INTERNET, STRANGER


@everywhere
def it_is_open_or_closed_everywhere(its: Installation) -> None:
    rendering, http = its.rendering, its.values["gateway"]["http"]
    workload = rendering.workload("gateway")
    settings = its.settings["gateway"]
    ports = {each["name"]: each["containerPort"] for each in workload.main["ports"]}
    (service,) = (each for each in rendering.of("gateway", "Service") if each["spec"].get("type"))
    served = {each["name"]: each for each in service["spec"]["ports"]}
    if not http["enabled"]:
        assert settings.http.port is None
        assert "http" not in {*ports, *served}
        return
    assert ports["http"] == settings.http.port == HTTP
    assert settings.http.host in ("0.0.0.0", "::")
    assert (served["http"]["port"], served["http"]["targetPort"]) == (http["port"], "http")
    assert served["http"]["appProtocol"] == ("https" if settings.tls.certificate else "http")


@everywhere
def who_reaches_it(its: Installation) -> None:
    if not its.values["networkPolicy"]["enabled"]:
        return
    network = its.network
    gateway, is_open = network.servers["gateway"], its.values["gateway"]["http"]["enabled"]
    for client in (STRANGER, ELSEWHERE, INTERNET):
        assert network.opens(client, gateway, HTTP) is is_open
    for component in ("stage", "decoder"):
        assert not network.may_open(STRANGER, network.servers[component], HTTP)
    webrtc = its.values["gateway"]["http"]["webrtc"]
    first, last = webrtc["firstPort"], webrtc["lastPort"]
    for client in (STRANGER, ELSEWHERE, INTERNET):
        for port in (first, last):
            assert network.opens(client, gateway, port, "UDP") is (is_open and webrtc["enabled"])
        assert not network.opens(client, gateway, last + 1, "UDP")
        assert not network.opens(client, gateway, first)
