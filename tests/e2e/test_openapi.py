"""What the OpenAPI document promises, asked of a running instance by schemathesis."""

from pathlib import Path

import httpx
import pytest

from tests.e2e.instance import RunningInstance
from tests.e2e.promises import OPERATOR, broken_promises
from workers.server import bodies, native_body

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def instance(tiny_llama: Path):
    """Two groups whose answers are short, and come at once."""
    flags = ("--dp-size", "2", "--device", "emulated", "--emulated-step-cost", "0.1,0,0,0")
    with RunningInstance(
        "--model", str(tiny_llama), "--max-model-len", "48", *flags, environment=OPERATOR
    ) as running:
        yield running


@pytest.mark.timeout(300)
def test_no_request_that_the_document_allows_or_nearly_allows_is_answered_otherwise(instance):
    """
    Hundreds of requests, good ones and mutilated ones: no 500, and every answer as documented.
    """
    assert not broken_promises(instance)


def test_the_document_tells_of_every_field_that_workers_understand(instance):
    """
    Field by field, so that one which is added to the workers is not forgotten here.
    """
    schemas = httpx.get(f"{instance.url}/openapi.json").json()["components"]["schemas"]

    for name, body in (
        ("ChatRequest", bodies.ChatBody),
        ("CompletionRequest", bodies.CompletionBody),
        ("GenerateRequest", native_body.GenerateBody),
        ("TokenizeRequest", bodies.TokenizeBody),
    ):
        assert set(schemas[name]["properties"]) == set(body.model_fields), name


def test_an_operator_learns_why_a_request_went_where_it_did(instance):
    """
    By the id in its answer's head; whoever has no key learns nothing.
    """
    body = {"prompt": "once upon a time", "max_tokens": 2}
    operator = {"Authorization": f"Bearer {OPERATOR['LEVELHEAD_ADMIN_API_KEY']}"}
    head = httpx.post(f"{instance.url}/v1/completions", json=body, timeout=30).headers
    url = f"{instance.url}/admin/decisions/{head['x-levelhead-dp-balance-id']}"

    (told,) = httpx.get(url, headers=operator).json()["decisions"]

    assert str(told["dp_rank"]) == head["x-levelhead-dp-rank"]
    assert told["stands_for"] == "slack_affinity"
    assert told["reason"]
    assert httpx.get(url).status_code == 401
