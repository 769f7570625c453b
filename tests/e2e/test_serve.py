"""`levelhead serve` on a tiny model: real processes, real sockets, real segments."""

import concurrent.futures
import os
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.instance import RunningInstance, events, eventually

pytestmark = pytest.mark.slow

LONG = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True, "temperature": 0, "stream": True}
SHORT = {"prompt": "b", "max_tokens": 1, "ignore_eos": True, "temperature": 0}


TEXT_PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


def serve(model, *flags):
    return RunningInstance("--model", str(model), "--served-model-name", "tiny",
                           "--threads-per-rank", "1", *flags)  # fmt: skip


@pytest.fixture(scope="module", name="instance")
def _instance(tiny_llama):
    with serve(tiny_llama) as running:
        yield running


def test_the_openai_client_gets_text_and_usage(instance):
    """
    The official client works unchanged, streaming and not, and counts agree.
    """
    client = openai.OpenAI(base_url=f"{instance.url}/v1", api_key="none")
    messages = [{"role": "user", "content": "hello"}]
    asked = {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0}

    whole = client.chat.completions.create(**asked)
    with client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    same = ("prompt_tokens", "completion_tokens", "total_tokens")  # the second finds it cached
    assert [getattr(chunks[-1].usage, name) for name in same] == [
        getattr(whole.usage, name) for name in same
    ]
    assert whole.usage.completion_tokens <= 8
    client.close()


def test_every_answer_names_its_group(instance):
    """
    x-levelhead-dp-rank and x-levelhead-dp-balance-id tell who served and under which id.
    """
    answer = httpx.post(f"{instance.url}/v1/completions", json=SHORT | {"model": "tiny"})

    assert answer.headers["x-levelhead-dp-rank"] in ("0", "1")
    assert len(answer.headers["x-levelhead-dp-balance-id"]) == 16


def test_after_quiet_nothing_is_held_and_nothing_is_in_flight(instance):
    """
    Every charge that was dispatched is accounted for: holding, in flight and drift end at zero.
    """
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(httpx.post, f"{instance.url}/v1/completions",
                        json=SHORT | {"model": "tiny"}, timeout=60)
            for _ in range(32)
        ]  # fmt: skip
        assert {answer.result().status_code for answer in asked} == {200}

    eventually(lambda: _is_quiet(instance), "quiet")
    assert instance.metric("levelhead_ledger_drift_tokens") == 0
    dispatched = instance.metric("levelhead_dispatches_total")
    answered = instance.metric("levelhead_responses_total")
    assert dispatched == answered >= 32


def test_a_client_that_leaves_frees_its_place(instance):
    """
    Closing a stream stops its generation in the group; holding returns to zero.
    """
    before = instance.metric("levelhead_client_disconnects_total")
    with httpx.stream("POST", f"{instance.url}/v1/completions", timeout=60,
                      json=LONG | {"model": "tiny"}) as stream:  # fmt: skip
        next(events(stream))

    eventually(lambda: _is_quiet(instance), "the group freed the request")
    assert instance.metric("levelhead_client_disconnects_total") == before + 1


def test_a_client_that_leaves_without_streaming_frees_its_place(instance):
    """
    The same when it waits for a whole answer.
    """
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{instance.url}/v1/completions", timeout=0.3,
                   json=LONG | {"model": "tiny", "stream": False})  # fmt: skip

    eventually(lambda: _is_quiet(instance), "the group freed the request")


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "JSON"),
        (b'"text"', 400, "object"),
        (b'{"model": "tiny"}', 400, "prompt"),
        (b'{"model": "tiny", "prompt": 7}', 400, "prompt"),
        (b'{"model": "tiny", "prompt": "a", "max_tokens": -1}', 400, "max_tokens"),
        (b'{"model": "tiny", "prompt": "a", "temperature": "hot"}', 400, "temperature"),
        (b'{"model": "other", "prompt": "a"}', 404, "other"),
        (b'{"model": "tiny", "prompt": "%s"}' % (b"a b c d " * 5000), 400, "token"),
    ],
)
def test_bad_input_is_refused_in_openai_shape_and_leaves_nothing(instance, body, status, word):
    """
    Status and message say what was wrong, and the ledger is at zero afterwards.
    """
    answer = httpx.post(f"{instance.url}/v1/completions", content=body, timeout=60)

    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert word in answer.json()["error"]["message"]
    eventually(lambda: _is_quiet(instance), "quiet")


def test_models_tokenize_loads_health_and_docs_answer(instance):
    """
    What is no inference request is answered through the same port.
    """
    assert httpx.get(f"{instance.url}/v1/models").json()["data"][0]["id"] == "tiny"
    tokens = httpx.post(f"{instance.url}/tokenize", json={"model": "tiny", "prompt": "hello"})
    assert tokens.json()["count"] == len(tokens.json()["tokens"]) > 0
    assert [load["dp_rank"] for load in instance.loads()] == [0, 1]
    assert httpx.get(f"{instance.url}/health").status_code == 200
    assert httpx.get(f"{instance.url}/ready").json() == {"ready_groups": 2, "groups": 2}
    assert httpx.get(f"{instance.url}/docs").status_code == 200
    assert httpx.get(f"{instance.url}/nowhere").json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": "hé 👋"}]}),
        ("chat/completions", {"messages": [{"role": "user", "content": TEXT_PARTS}]}),
        (
            "chat/completions",
            {
                "messages": [
                    {"role": "assistant", "content": None},
                    {"role": "user", "content": "so?"},
                ]
            },
        ),
        ("completions", {"prompt": "a plain prompt"}),
        ("completions", {"prompt": [1, 2, 3]}),
    ],
)
def test_prompts_are_counted_exactly(instance, path, body):
    """
    The front door's count of a prompt is the group's, to the token, however it is written.
    """
    before = instance.metric("levelhead_prompt_tokens_total", source="exact")
    url = f"{instance.url}/v1/{path}"
    answer = httpx.post(url, timeout=60, json={"model": "tiny", "max_tokens": 1} | body)
    after = instance.metric("levelhead_prompt_tokens_total", source="exact")

    assert after - before == answer.json()["usage"]["prompt_tokens"]


def test_a_group_gives_its_memory_back_under_load_and_serves_again(instance):
    """
    Not one request fails: those it has are finished, and the others go to the other group.

    What its process has in memory shrinks, and the same tokens come afterwards.
    """
    admin, pid = f"{instance.url}/admin/groups", instance.children()["workers0"]
    before = _resident_bytes(pid)
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        load = [pool.submit(_completed, instance) for _ in range(24)]
        released = httpx.post(f"{admin}/0/release_memory_occupation", timeout=60).json()
        answers = [each.result() for each in load]
    assert released["released_tags"] == ["kv_cache", "weights"]
    assert {answer.status_code for answer in answers} == {200}

    eventually(lambda: _states(admin) == ["released", "ready"], "the table says so")
    assert before - _resident_bytes(pid) > released["num_bytes"] / 2 > 1e6
    served = Counter(_completed(instance).headers["x-levelhead-dp-rank"] for _ in range(8))
    assert served == {"1": 8}
    pinned = _completed(instance, 0)
    assert pinned.status_code == 503
    assert "is released" in pinned.json()["error"]["message"]

    resumed = httpx.post(f"{admin}/0/resume_memory_occupation", timeout=60).json()
    assert resumed["changed_tags"] == ["kv_cache", "weights"]
    eventually(lambda: _states(admin) == ["ready", "ready"], "it serves again")
    again = _completed(instance, 0)
    assert again.headers["x-levelhead-dp-rank"] == "0"
    assert instance.children()["workers0"] == pid
    assert len({answer.json()["choices"][0]["text"] for answer in (*answers, again)}) == 1
    assert instance.metric("levelhead_ledger_drift_tokens") == 0


def _completed(instance, dp_rank=None):
    headers = None if dp_rank is None else {"x-data-parallel-rank": str(dp_rank)}
    body = SHORT | {"model": "tiny", "max_tokens": 6}
    return httpx.post(f"{instance.url}/v1/completions", json=body, headers=headers, timeout=60)


def _states(admin):
    return [group["state"] for group in httpx.get(admin).json()]


def _resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_a_restarted_control_plane_cuts_no_stream(instance):
    """
    Killing the control plane in the middle of a stream changes nothing for the client.
    """
    with httpx.stream("POST", f"{instance.url}/v1/completions", timeout=60,
                      json=LONG | {"model": "tiny", "max_tokens": 300}) as stream:  # fmt: skip
        received = events(stream)
        next(received)
        old = instance.children()["router.control_plane"]
        os.kill(old, signal.SIGKILL)
        assert sum(len(event["choices"]) for event in received) >= 250

    eventually(
        lambda: instance.children().get("router.control_plane", old) != old, "a new control plane"
    )
    eventually(lambda: httpx.get(f"{instance.url}/v1/models").status_code == 200, "it answers")
    assert httpx.get(f"{instance.url}/ready").json()["ready_groups"] == 2
    after = httpx.post(f"{instance.url}/v1/completions", json=SHORT | {"model": "tiny"}, timeout=60)
    assert after.status_code == 200


def test_minimum_tokens_avoids_a_loaded_group(tiny_llama):
    """
    While one group generates something long, a burst of short requests goes to the other.
    """
    with serve(tiny_llama, "--load-balance-method", "minimum_tokens") as instance:
        loaded, shares = burst_beside_a_long_generation(instance)

    assert shares == {1 - loaded: 12}


def test_round_robin_does_not_avoid_a_loaded_group(tiny_llama):
    """
    The same burst is dealt out evenly, loaded or not.
    """
    with serve(tiny_llama, "--load-balance-method", "round_robin") as instance:
        _, shares = burst_beside_a_long_generation(instance)

    assert shares == {0: 6, 1: 6}


def burst_beside_a_long_generation(instance):
    """The group that got the long generation, and how many short requests each group got."""
    eventually(lambda: _is_quiet(instance), "quiet")
    with httpx.stream("POST", f"{instance.url}/v1/completions", timeout=60,
                      json=LONG | {"model": "tiny"}) as stream:  # fmt: skip
        received = events(stream)
        for _ in range(150):
            next(received)
        loaded = int(stream.headers["x-levelhead-dp-rank"])
        with (
            httpx.Client(base_url=instance.url, timeout=60) as client,
            concurrent.futures.ThreadPoolExecutor(12) as pool,
        ):
            answers = list(pool.map(lambda _: _ask_short(client), range(12)))
        ranks = [int(answer.headers["x-levelhead-dp-rank"]) for answer in answers]
        # Reports come after answers; one that had ended would leave nothing running.
        eventually(
            lambda: instance.loads()[loaded]["num_running_reqs"] == 1, "only the long one runs"
        )
    return loaded, dict(sorted(Counter(ranks).items()))


def _ask_short(client):
    return client.post("/v1/completions", json=SHORT | {"model": "tiny"})


def test_a_stop_leaves_nothing_and_a_running_stream_finishes(tiny_llama):
    """
    SIGTERM: a stream under way is completed, then processes, segments and folder are gone.
    """
    instance = serve(tiny_llama)
    with httpx.stream("POST", f"{instance.url}/v1/completions", timeout=60,
                      json=LONG | {"model": "tiny", "max_tokens": 200}) as stream:  # fmt: skip
        received = events(stream)
        next(received)
        instance.process.send_signal(signal.SIGTERM)
        finish_reasons = [event["choices"][0]["finish_reason"] for event in received]

    assert finish_reasons[-1] == "length"
    assert instance.stop() == 0
    assert instance.segments() == []
    assert instance.children() == {}


def test_a_second_signal_cuts_what_the_first_would_wait_for(tiny_llama):
    """
    Whoever presses Ctrl-C twice wants to be gone: streams end, and nothing is left all the same.
    """
    with serve(tiny_llama, "--drain-timeout-s", "600") as instance:
        with httpx.stream("POST", f"{instance.url}/v1/completions", timeout=60,
                          json=LONG | {"model": "tiny"}) as stream:  # fmt: skip
            received = events(stream)
            next(received)
            instance.process.send_signal(signal.SIGINT)
            eventually(lambda: _refuses(instance), "the port is closed")
            instance.process.send_signal(signal.SIGINT)
            with pytest.raises(httpx.RemoteProtocolError):
                list(received)

        assert instance.process.wait(30) == 0
        assert (instance.segments(), instance.children()) == ([], {})


def _refuses(instance):
    try:
        httpx.get(f"{instance.url}/health")
    except httpx.ConnectError:
        return True
    return False


def test_what_a_killed_instance_left_is_swept_by_the_next(tiny_llama):
    """
    SIGKILL of the root ends its children; the next start removes its segments.
    """
    killed = serve(tiny_llama)
    pids = killed.children().values()
    killed.process.kill()
    killed.stop()
    assert len(killed.segments()) == 3
    eventually(lambda: not any(map(_is_running, pids)), "children ended with their root")

    with serve(tiny_llama):
        assert killed.segments() == []


def test_a_port_in_use_is_refused_at_start():
    """
    Flag, value and reason; nothing is started.
    """
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = run_cli("serve", "--port", str(port))

    assert ran.returncode == 2
    assert ran.stderr == (
        f"levelhead: --port {port}: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dp-size", "0"), ("--dp-size", "'0'", "1 to 1024")),
        (("--load-balance-method", "best"), ("--load-balance-method", "best", "minimum_tokens")),
        (("--model", "/nowhere.gguf"), ("--model", "/nowhere.gguf", "SmolLM2-135M-Instruct")),
        (("--tp-size", "2"), ("--tp-size", "2", "--enable-dp-attention")),
    ],
)
def test_a_bad_flag_is_refused_at_start(flags, words):
    """
    One line that names flag, value and what is allowed.
    """
    ran = run_cli("serve", "--port", "0", *flags)

    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert all(word in ran.stderr for word in words)


def test_a_corrupt_model_is_refused_at_start(tmp_path):
    """
    The rank says what is wrong with the file, and the root says that it gave up.
    """
    (tmp_path / "broken.gguf").write_bytes(b"GGUF\x03\x00\x00\x00 and no more")
    ran = run_cli("serve", "--port", "0", "--model", str(tmp_path / "broken.gguf"))

    assert ran.returncode == 2
    assert "broken.gguf" in ran.stderr
    assert "before it was ready" in ran.stderr


def run_cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "router.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _is_quiet(instance):
    return all(
        load["holding_tokens"] == load["in_flight_tokens"] == load["num_running_reqs"] == 0
        for load in instance.loads()
    )


def _is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
