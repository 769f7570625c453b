"""What the OpenAPI document promises of backends that come and go, asked by schemathesis."""

import pytest

from tests.e2e.instance import RunningInstance
from tests.e2e.promises import OPERATOR, broken_promises
from tests.e2e.stand_in_engine import StandInEngine

pytestmark = pytest.mark.slow
ASKED = "^/(admin|v1/loads|metrics|health|ready)"


@pytest.mark.timeout(300)
def test_whatever_operators_ask_for_is_answered_as_the_document_says():
    """
    Groups that are deleted, added and reweighed by any request.
    """
    with StandInEngine() as one, StandInEngine() as two:
        backends = [
            flag for each in (one, two) for flag in ("--backend", f"{each.url},kind=openai")
        ]
        with RunningInstance(*backends, environment=OPERATOR) as door:
            assert not broken_promises(door, "--include-path-regex", ASKED)
