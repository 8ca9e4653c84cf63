"""EndpointSlices as endpoints, to the letter of the API."""

from typing import Any

import pytest

from services.gateway.kubernetes.slices import Slice, merge, parsed
from services.gateway.peers.endpoints import Endpoint, Pod
from tests.services.support.fake_api_server import endpoint_object, slice_object


def read(*objects: dict[str, Any]) -> frozenset[Endpoint]:
    slices = [parsed(Slice, item) for item in objects]
    assert all(slices)
    return merge(found.read("grpc") for found in slices if found)


def addresses(*objects: dict[str, Any]) -> set[str]:
    return {endpoint.address for endpoint in read(*objects)}


def test_an_entry_is_an_address_a_pod_and_whether_it_leaves() -> None:
    found = read(
        slice_object(
            "s1", endpoint_object("10.0.0.1", "stage-a"), endpoint_object("10.0.0.2", terminating=True)
        )
    )
    assert found == {
        Endpoint("10.0.0.1:50061", Pod("stage-a", "uid-stage-a")),
        Endpoint("10.0.0.2:50061", None, is_terminating=True),
    }


@pytest.mark.parametrize("terminating", [None, False, True])
@pytest.mark.parametrize("ready", [None, False, True])
def test_ready_or_not_it_is_followed_and_terminating_is_false_unless_said(
    ready: bool | None, terminating: bool | None
) -> None:
    (found,) = read(slice_object("s1", endpoint_object("10.0.0.1", ready=ready, terminating=terminating)))
    assert found.is_terminating is bool(terminating)


def test_an_entry_without_conditions_stays() -> None:
    entry = endpoint_object("10.0.0.1") | {"conditions": None}
    assert addresses(slice_object("s1", entry)) == {"10.0.0.1:50061"}


def test_ipv6_is_bracketed() -> None:
    entry = endpoint_object("fd00::1", "stage-a")
    assert addresses(slice_object("s1", entry, address_type="IPv6")) == {"[fd00::1]:50061"}


def test_a_dual_stack_pod_is_one_server_by_ipv4() -> None:
    four = slice_object("s1", endpoint_object("10.0.0.1", "stage-a"))
    six = slice_object("s2", endpoint_object("fd00::1", "stage-a"), address_type="IPv6")
    assert addresses(four, six) == addresses(six, four) == {"10.0.0.1:50061"}


def test_names_are_addresses_too() -> None:
    assert addresses(slice_object("s1", endpoint_object("stage.example"), address_type="FQDN")) == {
        "stage.example:50061"
    }


def test_slices_of_one_service_are_one_set() -> None:
    one = slice_object("s1", endpoint_object("10.0.0.1", "a"), endpoint_object("10.0.0.2", "b"))
    two = slice_object("s2", endpoint_object("10.0.0.2", "b"), endpoint_object("10.0.0.3", "c"), port=7)
    assert addresses(one, two) == {"10.0.0.1:50061", "10.0.0.2:50061", "10.0.0.3:7"}


def test_a_pod_that_leaves_in_one_slice_leaves() -> None:
    stale = slice_object("s1", endpoint_object("10.0.0.1", "a"))
    fresh = slice_object("s2", endpoint_object("10.0.0.1", "a", terminating=True))
    for found in (read(stale, fresh), read(fresh, stale)):
        assert found == {Endpoint("10.0.0.1:50061", Pod("a", "uid-a"), is_terminating=True)}


def test_an_address_that_two_pods_claim_belongs_to_the_one_that_stays() -> None:
    old = slice_object("s1", endpoint_object("10.0.0.1", "a", terminating=True))
    new = slice_object("s2", endpoint_object("10.0.0.1", "b"))
    for found in (read(old, new), read(new, old)):
        assert found == {Endpoint("10.0.0.1:50061", Pod("b", "uid-b"))}


def test_only_the_first_address_of_an_entry_counts() -> None:
    entry = endpoint_object("10.0.0.1") | {"addresses": ["10.0.0.1", "10.0.0.2"]}
    assert addresses(slice_object("s1", entry)) == {"10.0.0.1:50061"}


@pytest.mark.parametrize(
    "ports", [None, [], [{"name": "http", "port": 80}], [{"name": "grpc"}], [{"name": "grpc", "port": "x"}]]
)
def test_without_the_named_port_there_is_nobody_to_call(ports: Any) -> None:
    assert read(slice_object("s1", endpoint_object("10.0.0.1")) | {"ports": ports}) == frozenset()


@pytest.mark.parametrize(
    "entry",
    [
        None,
        7,
        {},
        {"addresses": None},
        {"addresses": []},
        {"addresses": ["not an address"]},
        {"addresses": ["fd00::1"]},
        {"addresses": ["10.0.0.9"], "conditions": "yes"},
        {"addresses": ["10.0.0.9"], "targetRef": []},
    ],
)
def test_an_entry_that_makes_no_sense_hides_no_other(entry: Any) -> None:
    assert addresses(slice_object("s1", entry, endpoint_object("10.0.0.1"))) == {"10.0.0.1:50061"}


@pytest.mark.parametrize("target", [{"kind": "Node", "name": "n", "uid": "u"}, {"kind": "Pod"}, None])
def test_what_is_no_pod_is_known_by_its_address(target: Any) -> None:
    entry = endpoint_object("10.0.0.1") | {"targetRef": target}
    assert read(slice_object("s1", entry)) == {Endpoint("10.0.0.1:50061")}


def test_empty_slices_are_slices() -> None:
    assert read(slice_object("s1") | {"endpoints": None}) == frozenset()
    assert parsed(Slice, {"addressType": 4}) is None
