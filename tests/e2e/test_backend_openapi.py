"""What the OpenAPI document promises of backends that come and go, asked by schemathesis."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.instance import RunningInstance
from tests.e2e.stand_in_engine import StandInEngine
from tests.e2e.test_openapi import CHECKS

pytestmark = pytest.mark.slow
ASKED = "^/(admin|v1/loads|metrics|health|ready)"


@pytest.mark.timeout(300)
def test_whatever_operators_ask_for_is_answered_as_the_document_says():
    """
    Groups that are deleted, added and reweighed by any request.
    """
    schemathesis = Path(sys.executable).with_name("schemathesis")
    keys = {"LEVELHEAD_ADMIN_API_KEY": "operator"}
    with StandInEngine() as one, StandInEngine() as two:
        backends = [
            flag for each in (one, two) for flag in ("--backend", f"{each.url},kind=openai")
        ]
        with RunningInstance(*backends, environment=keys) as door:
            done = subprocess.run(
                [
                    str(schemathesis), "run", f"{door.url}/openapi.json",
                    "--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing",
                    "--max-examples", "15", "--seed", "1", "--request-timeout", "20",
                    "--include-path-regex", ASKED,
                    "--header", "Authorization: Bearer operator", "--no-color",
                ],
                capture_output=True,
                text=True,
                timeout=280,
                check=False,
            )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
