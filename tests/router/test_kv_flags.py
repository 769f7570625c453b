"""`kv-events=`, `kv-replay=` and `--tokenizer-path`: what is taken, and what is refused."""

import sys

import pytest

from router.backends.backend import parse_backend
from router.backends.dns_source import parse_dns
from router.backends.kubernetes.service import parse_service
from router.errors import ConfigError
from router.options import parse_serve
from tests.router.test_engine_prompts import a_folder


@pytest.mark.parametrize(
    ("setting", "events", "replay"),
    [
        ("kv-events=5557", "tcp://h:5557", ""),
        ("kv-events=5557,kv-replay=5600", "tcp://h:5557", "tcp://h:5600"),
        ("kv-events=tcp://Other.org:1", "tcp://other.org:1", ""),
        ("kv-events=tcp://[::1]:65535", "tcp://[::1]:65535", ""),
    ],
)
def test_a_port_is_the_backends_own_and_an_endpoint_any(setting, events, replay):
    """
    That of rank 0.
    """
    backend = parse_backend(f"http://h:1,{setting}")
    assert (backend.kv_events, backend.kv_replay) == (events, replay)


def test_a_port_at_an_ipv6_address_stands_behind_brackets():
    """
    As ZeroMQ wants it.
    """
    assert parse_backend("http://[::1]:1,kv-events=5557").kv_events == "tcp://[::1]:5557"


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("kv-events=", "kv-events=: allowed are a port, 1 to 65535, and tcp://host:port"),
        ("kv-events=0", "allowed are a port"),
        ("kv-events=65536", "allowed are a port"),
        ("kv-events=ipc:///x", "allowed are a port"),
        ("kv-events=tcp://*:5557", "allowed are a port"),
        ("kv-events=tcp://-:5557", "allowed are a port"),
        ("kv-events=tcp://_:5557", "allowed are a port"),
        ("kv-events=5557,kind=llamacpp", "llamacpp publishes none, vllm and sglang do"),
        ("kv-replay=5557", "allowed only beside kv-events="),
    ],
)
def test_what_is_no_place_of_events_is_refused_with_what_is_allowed(setting, said):
    """
    By the value that is wrong.
    """
    with pytest.raises(ValueError, match="kv-") as refused:
        parse_backend(f"http://h:1,{setting}")
    assert said in str(refused.value)


BACKEND = ("--backend", "http://h:1,kind=vllm,kv-events=5557")


def test_events_need_a_tokenizer():
    """
    For pages are named by token ids.
    """
    with pytest.raises(ConfigError, match=r"--backend http://h:1: kv-events: .*--tokenizer-path"):
        parse_serve(BACKEND, {})


def test_events_need_the_extra(tmp_path, monkeypatch):
    """
    And the error says how to get it.
    """
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(ConfigError, match=r"pip install 'levelhead\[kv-events\]'"):
        parse_serve([*BACKEND, "--tokenizer-path", str(a_folder(tmp_path))], {})


def test_with_both_all_is_well(tmp_path):
    """
    A tokenizer without events too.
    """
    options = parse_serve([*BACKEND, "--tokenizer-path", str(a_folder(tmp_path))], {})
    assert (options.tokenizer_path, options.backends[0].kv_events) == (tmp_path, "tcp://h:5557")


@pytest.mark.parametrize("missing", ["folder", "tokenizer", "template"])
def test_a_folder_that_cannot_be_used_is_refused_before_anything_starts(tmp_path, missing):
    """
    Naming flag and folder.
    """
    if missing == "tokenizer":
        (tmp_path / "tokenizer.json").write_text("{}")
    elif missing == "template":
        a_folder(tmp_path, "{% for %}")
    with pytest.raises(ConfigError, match=r"--tokenizer-path .*must be a folder with tokenizer"):
        parse_serve(["--backend", "http://h:1", "--tokenizer-path", str(tmp_path)], {})


def test_workers_of_ours_have_their_own_tokenizer(tmp_path):
    """
    Another one would count otherwise.
    """
    with pytest.raises(ConfigError, match=r"--tokenizer-path .*is for --backend"):
        parse_serve(["--tokenizer-path", str(a_folder(tmp_path))], {})


@pytest.mark.parametrize("source", [("--backend-dns", "h:1"), ("--backend-kubernetes", "n/h:1")])
def test_events_of_a_source_are_a_port_at_each_backends_own_host(tmp_path, source):
    """
    Which needs the tokenizer as well.
    """
    flag, name = source
    api = ["--kubernetes-api", "http://api"] if "kube" in flag else []
    folder = ["--tokenizer-path", str(a_folder(tmp_path))]
    options = parse_serve([flag, f"{name},kv-events=5557,kv-replay=5558", *api, *folder], {})
    (told,) = options.backend_dns or options.backend_kubernetes
    backend = (parse_dns if options.backend_dns else parse_service)(told).backend("10.0.0.1", 80)
    assert (backend.kv_events, backend.kv_replay) == ("tcp://10.0.0.1:5557", "tcp://10.0.0.1:5558")

    with pytest.raises(ConfigError, match=f"{flag} .*kv-events: .*--tokenizer-path"):
        parse_serve([flag, f"{name},kv-events=5557", *api], {})
    with pytest.raises(ConfigError, match="kv-events=tcp://x:1: allowed is a port"):
        parse_serve([flag, f"{name},kv-events=tcp://x:1", *api, *folder], {})


def test_a_tokenizer_is_for_backends_of_a_source_too(tmp_path):
    """
    Which there may be none of yet.
    """
    folder = a_folder(tmp_path)
    options = parse_serve(["--backend-dns", "h:1", "--tokenizer-path", str(folder)], {})
    assert options.tokenizer_path == folder
