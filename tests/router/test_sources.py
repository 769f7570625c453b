"""Which sources an instance has."""

import pytest

from router.backends.kubernetes.api import ApiServer
from router.backends.kubernetes.flags import api_server
from router.backends.sources import sources_of, standings
from router.errors import ConfigError
from router.instance import Instance
from router.options import parse_serve

IN_A_CLUSTER = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}


def test_each_flag_is_a_source_and_what_an_instance_saved_has_the_same(tmp_path):
    """
    The control plane reads it, and may be started again.
    """
    instance = Instance(
        "i", 1, str(tmp_path), "h", 0, 0,
        backends_file="/b.yaml",
        backend_dns=("a:1", "b:2"),
        backend_kubernetes=("n/s,kind=vllm",),
        kubernetes_api="http://k",
    )  # fmt: skip
    instance.save()
    assert Instance.load(tmp_path) == instance

    sources = sources_of(instance, {})

    assert [source.name for source in sources] == [
        "--backends-file /b.yaml",
        "--backend-dns a:1",
        "--backend-dns b:2",
        "--backend-kubernetes n/s,kind=vllm",
    ]
    assert [standing.name for standing in standings(sources)] == [each.name for each in sources]


def test_an_instance_without_sources_has_none(tmp_path):
    """
    Its backends are those of --backend, or workers.
    """
    assert sources_of(Instance("i", 1, str(tmp_path), "h", 0, 2), {}) == []


def test_in_a_cluster_the_api_is_the_one_that_its_pods_are_told():
    """
    With the service account; what is told by flags is not looked for.
    """
    account = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert api_server(None, None, None, IN_A_CLUSTER) == ApiServer(
        "https://[fd00::1]:6443", f"{account}/token", f"{account}/ca.crt"
    )
    assert api_server(None, "/t", "/c", IN_A_CLUSTER).token_file == "/t"
    assert api_server("http://k:1/", None, None, IN_A_CLUSTER) == ApiServer("http://k:1")


def test_a_pod_without_a_service_account_is_refused_at_the_start():
    """
    By the file that is not there.
    """
    with pytest.raises(ConfigError, match="serviceaccount/token cannot be read"):
        parse_serve(["--backend-kubernetes", "a/b"], IN_A_CLUSTER)


def test_a_port_of_the_api_that_is_none_is_refused():
    """
    An environment may hold anything.
    """
    with pytest.raises(ConfigError, match="KUBERNETES_SERVICE_PORT in the environment is no port"):
        parse_serve(
            ["--backend-kubernetes", "a/b"], IN_A_CLUSTER | {"KUBERNETES_SERVICE_PORT": "tcp://x"}
        )
