"""`kv-events=`, `kv-replay=` and `--tokenizer-path`: what is taken, and what is refused."""

import sys

import pytest

from router.backends.backend import parse_backend
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
    with pytest.raises(ConfigError, match=r"h:1,kv-events=tcp://h:5557: .*--tokenizer-path"):
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
