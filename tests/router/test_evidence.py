from pathlib import Path

import pytest

from router.backends.backend import Kind
from router.backends.evidence import Evidence

RECORDED = Path(__file__).parent / "recorded"
VLLM_MODELS = (RECORDED / "vllm-models.json").read_bytes()
VLLM_IDLE_DP2 = (RECORDED / "vllm-metrics-idle-dp2.txt").read_bytes()
VLLM_METRICS = (RECORDED / "vllm-metrics.txt").read_bytes()


def owned(owner):
    return b'{"object":"list","data":[{"id":"a/model","owned_by":"%s"}]}' % owner


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ({"/v1/models": VLLM_MODELS, "/metrics": VLLM_METRICS}, Kind.VLLM),
        ({"/metrics": VLLM_METRICS}, Kind.VLLM),
        ({"/version": b'{"version":"0.32.0"}'}, Kind.VLLM),
        ({"/v1/models": owned(b"sglang")}, Kind.SGLANG),
        ({"/get_server_info": b'{"dp_size":4,"version":"0.5"}'}, Kind.SGLANG),
        ({"/server_info": b'{"dp_size":4}', "/version": b'{"version":"1"}'}, Kind.SGLANG),
        ({"/v1/models": (RECORDED / "llamacpp-models.json").read_bytes()}, Kind.LLAMACPP),
        ({"/props": (RECORDED / "llamacpp-props.json").read_bytes()}, Kind.LLAMACPP),
        ({"/metrics": (RECORDED / "llamacpp-metrics.txt").read_bytes()}, Kind.LLAMACPP),
        ({"/v1/models": owned(b"levelhead")}, Kind.LEVELHEAD),
        ({"/v1/models": owned(b"me"), "/version": b'{"version":"1"}'}, Kind.OPENAI),
        ({"/v1/models": b'{"object":"list","data":[]}'}, None),
        ({"/v1/models": b"<html>", "/props": b"[]", "/metrics": b"up 1\n"}, None),
        ({}, None),
    ],
)
def test_what_a_server_tells_says_what_it_is(answers, kind):
    """
    With keys on some of its endpoints, too.
    """
    assert Evidence(answers).kind() is kind


def test_the_name_of_the_model_is_the_first_that_is_served():
    """
    For the line that is printed to be pasted.
    """
    assert Evidence({"/v1/models": VLLM_MODELS}).model == "SmolLM2-135M-Instruct"
    assert Evidence({"/v1/models": b'{"data":[{"id":5}]}'}).model == ""


@pytest.mark.parametrize(
    ("kind", "answers", "ranks"),
    [
        (Kind.VLLM, {"/metrics": VLLM_METRICS}, (0,)),
        (
            Kind.VLLM,
            {"/metrics": b"\n".join(VLLM_METRICS.replace(b'"0"', b) for b in (b'"5"', b'"4"'))},
            (4, 5),
        ),
        (Kind.VLLM, {"/metrics": VLLM_IDLE_DP2}, (0, 1)),
        (Kind.VLLM, {}, ()),
        (Kind.SGLANG, {"/get_server_info": b'{"dp_size":3}'}, (0, 1, 2)),
        (Kind.SGLANG, {"/get_server_info": b'{"dp_size":"3"}'}, ()),
        (Kind.SGLANG, {"/get_server_info": b'{"dp_size":1025}'}, ()),
        (Kind.VLLM, {"/metrics": b'vllm:x{engine="1024"} 1\nvllm:x{engine="99999"} 1'}, ()),
        (Kind.LLAMACPP, {}, (0,)),
    ],
)
def test_an_engine_tells_its_ranks(kind, answers, ranks):
    """
    vLLM by a label of its metrics, SGLang by its size.
    """
    assert Evidence(answers).ranks(kind) == ranks
