"""What the OpenAPI document promises, asked of a running instance by schemathesis."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.instance import RunningInstance
from workers.server import bodies, native_body

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def instance(tiny_llama: Path):
    """Two groups whose answers are short, and come at once."""
    flags = ("--dp-size", "2", "--device", "emulated", "--emulated-step-cost", "0.1,0,0,0")
    keys = {"LEVELHEAD_ADMIN_API_KEY": "operator"}
    with RunningInstance(
        "--model", str(tiny_llama), "--max-model-len", "48", *flags, environment=keys
    ) as running:
        yield running


@pytest.mark.timeout(300)
def test_no_request_that_the_document_allows_or_nearly_allows_is_answered_otherwise(instance):
    """
    Hundreds of requests, good ones and mutilated ones: no 500, and every answer as documented.
    """
    schemathesis = Path(sys.executable).with_name("schemathesis")
    done = subprocess.run(
        [
            str(schemathesis), "run", f"{instance.url}/openapi.json",
            "--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing",
            "--max-examples", "15", "--seed", "1", "--request-timeout", "20",
            "--header", "Authorization: Bearer operator", "--no-color",
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


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
