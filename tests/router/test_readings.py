"""
Recorded answers of engines, and what is made of them; and of answers that are not right.

Of vLLM 0.32.0 (one rank, and two under load), SGLang 0.5.23 (two ranks on a CPU, ten requests
sent to the first and one to the second) and llama.cpp's server of November 2026.
"""

import re
from pathlib import Path

import orjson
import pytest

from router.backends.backend import Kind
from router.backends.readings.adapters import ADAPTERS
from router.backends.readings.reading import Condition, Reading, ReadingError

RECORDED = Path(__file__).parent / "recorded"
VLLM = (RECORDED / "vllm-metrics.txt").read_text()
SGLANG = (RECORDED / "sglang-loads.json").read_bytes()


def read(kind, *bodies):
    """The readings out of the bodies of that kind's paths, in order."""
    adapter = ADAPTERS[kind]
    padded = [*bodies, *[None] * (len(adapter.paths) - len(bodies))]
    return adapter.readings(dict(zip(adapter.paths, padded, strict=True)))


def condition(kind, *bodies):
    """Why there is no reading."""
    with pytest.raises(ReadingError) as refused:
        read(kind, *bodies)
    return refused.value.condition


def vllm(engine=0, running=0.0, waiting=0.0, usage=0.0):
    """The recorded metrics with these values."""
    values = {
        "num_requests_running": running,
        "num_requests_waiting": waiting,
        "kv_cache_usage_perc": usage,
    }
    text = VLLM
    for name, value in values.items():
        text = re.sub(rf"^(vllm:{name}{{.*}}) 0.0$", rf"\1 {value}", text, flags=re.MULTILINE)
    return text.replace('engine="0"', f'engine="{engine}"').encode()


# vLLM


def test_vllm_as_it_answers_when_idle():
    """
    46,592 tokens in blocks of 128.
    """
    assert read(Kind.VLLM, VLLM.encode()) == {0: Reading(0, 0, 0, 0, 46592)}


def test_vllm_holds_for_certain_what_its_blocks_hold_at_least():
    """
    Of each running request's last block perhaps one token.
    """
    body = vllm(running=3.0, waiting=2.0, usage=91 / 364)

    assert read(Kind.VLLM, body) == {0: Reading(3, 2, 91 * 128 - 3 * 127, 91 * 128, 46592)}


def test_vllm_tells_its_ranks_apart_by_a_label():
    """
    Which need not begin at 0.
    """
    told = read(Kind.VLLM, vllm(4, 1.0, 0.0, 2 / 364) + vllm(5, 2.0, 0.0, 0.0))

    assert {rank: each.running_requests for rank, each in told.items()} == {4: 1, 5: 2}


def test_vllm_tells_the_blocks_of_all_ranks_with_each():
    """
    Recorded with two ranks of 364 blocks, 3 requests on each, in 5 blocks.
    """
    told = (RECORDED / "vllm-metrics-dp2.txt").read_text()
    expected = Reading(3, 0, 5 * 128 - 3 * 127, 5 * 128, 46592)

    assert read(Kind.VLLM, told.encode()) == {0: expected, 1: expected}
    older = re.sub(r'kv_cache_size_tokens="\d+",', "", told)
    assert read(Kind.VLLM, older.encode()) == {0: expected, 1: expected}


def test_vllm_called_its_usage_otherwise_once():
    """
    Until 0.10.
    """
    old = vllm(running=1.0, usage=0.5).replace(b"kv_cache_usage_perc", b"gpu_cache_usage_perc")

    assert read(Kind.VLLM, old)[0].kv_used_tokens == 23296


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (None, Condition.MISSING),
        (b"", Condition.MISSING),
        (b"process_cpu_seconds_total 1.0\n", Condition.MISSING),
        (vllm().replace(b"vllm:num_requests_waiting{", b"vllm:queue{"), Condition.MISSING),
        (vllm(usage=1.5), Condition.MALFORMED),
        (vllm(usage="NaN"), Condition.MALFORMED),
        (vllm(running=-1.0), Condition.MALFORMED),
        (vllm(running="many"), Condition.MALFORMED),
        (vllm().replace(b'block_size="128"', b'block_size="None"'), Condition.MALFORMED),
        (vllm("first"), Condition.MALFORMED),
        (
            vllm().replace(b'block_size="128"', b'block_size="%s"' % (b"9" * 400)),
            Condition.MALFORMED,
        ),
    ],
)
def test_what_vllm_does_not_say_right_is_no_reading(body, expected):
    """
    And is named.
    """
    assert condition(Kind.VLLM, body) is expected


# SGLang and ourselves


def test_sglang_tells_each_rank():
    """
    num_total_tokens has the prompts that wait.
    """
    assert read(Kind.SGLANG, SGLANG) == {
        0: Reading(1, 2, 70, 28, 16384, 5_211_392_403),
        1: Reading(1, 0, 36, 36, 16384, 1_127_121_210),
    }


def test_another_instance_is_one_group():
    """
    Whatever it has behind it.
    """
    assert read(Kind.LEVELHEAD, SGLANG) == {0: Reading(2, 2, 106, 64, 32768, 5_211_392_403)}


def changed(**fields):
    told = orjson.loads(SGLANG)
    told["loads"][0] |= fields
    told["loads"][0] = {k: v for k, v in told["loads"][0].items() if v != "gone"}
    return orjson.dumps(told)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (None, Condition.MISSING),
        (b"<html>", Condition.MALFORMED),
        (b"[]", Condition.MALFORMED),
        (b'{"loads":{}}', Condition.MALFORMED),
        (b'{"loads":[]}', Condition.MISSING),
        (changed(num_running_reqs="gone"), Condition.MISSING),
        (changed(num_running_reqs=None), Condition.MISSING),
        (changed(max_total_num_tokens="gone"), Condition.MISSING),
        (changed(num_used_tokens=-1), Condition.MALFORMED),
        (changed(num_used_tokens="28"), Condition.MALFORMED),
        (changed(num_used_tokens=True), Condition.MALFORMED),
        (changed(num_used_tokens=16385), Condition.MALFORMED),
        (changed(num_running_reqs=1e30), Condition.MALFORMED),
    ],
)
def test_what_sglang_does_not_say_right_is_no_reading(body, expected):
    """
    Versions in which num_total_tokens was the capacity tell no max_total_num_tokens.
    """
    assert condition(Kind.SGLANG, body) is expected


# llama.cpp


def slots(**fields):
    """The recorded slots, with these fields of the busy one."""
    told = orjson.loads((RECORDED / "llamacpp-slots.json").read_bytes())
    busy = {name: value for name, value in (told[3] | fields).items() if value != "gone"}
    return orjson.dumps([*told[:3], busy])


def test_llamacpp_holds_what_its_busy_slots_hold():
    """
    Recorded after 64 of 200 tokens, on a prompt of 5; the produced are in n_prompt_tokens.
    """
    assert read(Kind.LLAMACPP, slots()) == {0: Reading(1, 0, 69, 69, 8192)}


def test_llamacpp_of_before_tells_its_prompt_alone():
    """
    Then what was produced is added.
    """
    old = slots(n_prompt_tokens=5, n_prompt_tokens_cache="gone")

    assert read(Kind.LLAMACPP, old)[0].held_tokens == 69


def test_llamacpp_tells_of_waiting_requests_in_its_metrics():
    """
    If they are switched on.
    """
    metrics = (RECORDED / "llamacpp-metrics.txt").read_bytes()
    deferred = metrics.replace(b"requests_deferred 0", b"requests_deferred 7")

    assert read(Kind.LLAMACPP, slots(), metrics)[0].waiting_requests == 0
    assert read(Kind.LLAMACPP, slots(), deferred)[0].waiting_requests == 7


@pytest.mark.parametrize(
    ("bodies", "expected"),
    [
        ((None,), Condition.MISSING),
        ((b"{",), Condition.MALFORMED),
        ((b'{"error":"no"}',), Condition.MALFORMED),
        ((slots(is_processing="gone"),), Condition.MISSING),
        ((slots(is_processing=1),), Condition.MALFORMED),
        ((slots(next_token="none"),), Condition.MALFORMED),
        ((slots(n_prompt_tokens="gone"),), Condition.MISSING),
        ((slots(n_ctx=-1),), Condition.MALFORMED),
        ((slots(), b"llamacpp:requests_deferred nan\n"), Condition.MALFORMED),
    ],
)
def test_what_llamacpp_does_not_say_right_is_no_reading(bodies, expected):
    """
    Its slots may be switched off.
    """
    assert condition(Kind.LLAMACPP, *bodies) is expected
