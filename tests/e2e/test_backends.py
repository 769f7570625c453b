"""`levelhead serve --backend` before an engine with processes of its own: another instance."""

import httpx
import openai
import pytest

from shm.sweep import sweep
from tests.e2e.instance import RunningInstance, events, eventually

pytestmark = pytest.mark.slow

LONG = {"prompt": "a", "max_tokens": 1500, "ignore_eos": True, "temperature": 0, "stream": True}


@pytest.fixture(name="engine")
def _engine(tiny_llama):
    flags = ("--model", str(tiny_llama), "--served-model-name", "tiny", "--threads-per-rank", "1")
    with RunningInstance(*flags, "--dp-size", "1") as running:
        yield running


@pytest.fixture(name="door")
def _door(engine):
    with RunningInstance("--backend", engine.url, "--front-doors", "2") as running:
        yield running


def test_an_engine_that_runs_is_served_by_front_doors_alone(engine, door):
    """
    No rank of ours is started; the official client works, and nothing stays in flight.
    """
    assert set(door.children()) == {"router.control_plane", "router.front_door"}
    client = openai.OpenAI(base_url=f"{door.url}/v1", api_key="none")
    messages = [{"role": "user", "content": "hello"}]
    asked = {"model": "tiny", "messages": messages, "max_tokens": 8, "temperature": 0}

    through = client.chat.completions.create(**asked)

    direct = client.with_options(base_url=f"{engine.url}/v1").chat.completions.create(**asked)
    assert through.choices[0].message.content == direct.choices[0].message.content
    assert [model.id for model in client.models.list()] == ["tiny"]
    client.close()
    eventually(lambda: door.loads()[0]["in_flight_tokens"] == 0, "nothing in flight")
    assert door.metric("levelhead_dispatches_total") == 2
    segments = door.segments()
    assert door.stop() == 0
    assert len(segments) == 3
    assert door.segments() == []


def test_what_others_send_to_an_engine_is_seen_and_a_client_that_leaves_is_told(engine, door):
    """
    Its own figures are added to the books; a stream that is given up ends in the engine.
    """
    copies = LONG | {"n": 8}
    with httpx.stream("POST", f"{engine.url}/v1/completions", json=copies, timeout=60) as others:
        theirs = events(others)
        next(theirs)
        eventually(lambda: door.loads()[0]["num_running_reqs"] == 8, "the engine's own figure")
        assert door.metric("levelhead_ledger_drift_tokens") > 0
        with httpx.stream("POST", f"{door.url}/v1/completions", json=LONG, timeout=60) as stream:
            ours = events(stream)
            next(ours)
            assert door.loads()[0]["in_flight_requests"] == 1
            eventually(lambda: engine.loads()[0]["num_running_reqs"] == 9, "all of them run")
        eventually(lambda: engine.loads()[0]["num_running_reqs"] <= 8, "ours was aborted")
        assert door.loads()[0]["in_flight_requests"] == 0
    assert [load["condition"] for load in door.loads()] == [None]


def test_an_engine_that_dies_is_dead_and_its_clients_are_told(engine, door):
    """
    The stream that it was at ends with an error event, and the next request is refused.
    """
    with httpx.stream("POST", f"{door.url}/v1/completions", json=LONG, timeout=60) as ours:
        told = events(ours)
        next(told)
        engine.process.kill()
        assert next(event for event in told if "error" in event)["error"]["code"] == "dp_group_lost"

    eventually(lambda: door.loads()[0]["state"] == "dead", "it is dead")
    refused = httpx.post(f"{door.url}/v1/completions", json={"prompt": "a"}, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_dp_group")
    assert door.loads()[0]["in_flight_tokens"] == 0
    assert f"/levelhead-{engine.name}-load" in sweep(), "what a killed root left"
