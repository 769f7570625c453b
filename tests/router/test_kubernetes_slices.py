"""What EndpointSlices say, without a server."""

import pytest

from router.backends.kubernetes.service import parse_service
from router.backends.kubernetes.slices import backends_of
from tests.router.kubernetes_api import endpoint, ready

HTTP, METRICS = {"name": "http", "port": 8000}, {"name": "metrics", "port": 9090}


def told(endpoints, *ports, family="IPv4"):
    return {"addressType": family, "endpoints": endpoints, "ports": list(ports) or None}


def urls(text, *slices):
    return [backend.url for backend in backends_of(parse_service(text), slices)]


@pytest.mark.parametrize(
    ("conditions", "counts"),
    [
        ({"ready": True}, True),
        ({}, True),
        ({"ready": None, "serving": True}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": True, "terminating": True}, False),
        ({"ready": True, "terminating": False}, True),
    ],
)
def test_who_is_ready_counts_and_who_terminates_does_not(conditions, counts):
    """
    What is not known is read as ready, which is how the API's document has it.
    """
    found = urls("a/b", told([endpoint("10.0.0.1", **conditions)], HTTP))

    assert found == (["http://10.0.0.1:8000"] if counts else [])


def test_an_endpoint_without_conditions_counts():
    """
    As one whose readiness is not known.
    """
    assert urls("a/b", told([{"addresses": ["10.0.0.1"]}], HTTP)) == ["http://10.0.0.1:8000"]


def test_one_that_stands_in_two_slices_is_one_backend():
    """
    The controller moves endpoints from slice to slice.
    """
    moving = told(ready("10.0.0.1"), HTTP)

    assert urls("a/b", moving, moving) == ["http://10.0.0.1:8000"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a/b", ["http://10.0.0.1:8000"]),
        ("a/b,family=ipv4", ["http://10.0.0.1:8000"]),
        ("a/b,family=ipv6", ["http://[fd00::1]:8000"]),
    ],
)
def test_of_two_families_one_counts(text, found):
    """
    They are the same pods.
    """
    both = told(ready("10.0.0.1"), HTTP), told(ready("fd00::1"), HTTP, family="IPv6")

    assert urls(text, *both) == found
    assert urls(text, *reversed(both)) == found


def test_the_second_family_counts_where_it_is_the_only_one():
    """
    Without being asked for.
    """
    assert urls("a/b", told(ready("fd00::1"), HTTP, family="IPv6")) == ["http://[fd00::1]:8000"]


@pytest.mark.parametrize(
    ("text", "ports", "found"),
    [
        ("a/b", [HTTP], "http://10.0.0.1:8000"),
        ("a/b", [{"name": "", "port": 81}], "http://10.0.0.1:81"),
        ("a/b", [HTTP, {"name": "dns", "port": 53, "protocol": "UDP"}], "http://10.0.0.1:8000"),
        ("a/b:metrics", [HTTP, METRICS], "http://10.0.0.1:9090"),
        ("a/b:7000", [HTTP, METRICS], "http://10.0.0.1:7000"),
        ("a/b:7000", [], "http://10.0.0.1:7000"),
    ],
)
def test_the_port_is_the_only_one_or_the_one_that_is_named(text, ports, found):
    """
    A number is taken as it is: services without ports have none to look at.
    """
    assert urls(text, told(ready("10.0.0.1"), *ports)) == [found]


def test_one_name_may_be_another_number_in_another_slice():
    """
    Where pods differ in what they call it.
    """
    one = told(ready("10.0.0.1"), HTTP)
    two = told(ready("10.0.0.2"), {"name": "http", "port": 8001})

    assert urls("a/b:http", one, two) == ["http://10.0.0.1:8000", "http://10.0.0.2:8001"]


@pytest.mark.parametrize(
    ("text", "ports", "said"),
    [
        ("a/b", [HTTP, METRICS], "a/b has the ports http (8000), metrics (9090): say which one"),
        ("a/b", [], "a/b has the ports none: say which one"),
        ("a/b:grpc", [HTTP], "a/b has the ports http (8000): none is named grpc"),
    ],
)
def test_a_port_that_cannot_be_told_is_refused_by_those_that_there_are(text, ports, said):
    """
    Guessing would send requests to the metrics.
    """
    with pytest.raises(ValueError) as refused:  # noqa: PT011  its words are what is tested
        urls(text, told(ready("10.0.0.1"), *ports))

    assert str(refused.value) == said


def test_a_port_is_not_looked_for_where_nobody_is_ready():
    """
    Slices without endpoints have no ports.
    """
    assert urls("a/b:grpc", told(None), told([endpoint("10.0.0.1", ready=False)], HTTP)) == []
