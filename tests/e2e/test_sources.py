"""A real `levelhead serve` whose backends are in a file, behind TLS, and want a key."""

import httpx
import pytest

from tests.e2e.instance import RunningInstance, eventually
from tests.e2e.stand_in_engine import StandInEngine
from tests.router.certified import Authority

pytestmark = pytest.mark.slow
KEY = "sk-of-the-engine"


def write(path, authority, *engines):
    """Replace the file, as whoever means well does."""
    entries = "".join(
        f"  - {{url: '{engine.url}', kind: openai, ca-file: {authority.file}, api-key-env: K}}\n"
        for engine in engines
    )
    path.with_suffix(".new").write_text(f"backends:\n{entries}" if engines else "backends: []")
    path.with_suffix(".new").replace(path)


def ready(door):
    return sum(load["state"] == "ready" for load in door.loads())


def test_a_file_of_engines_behind_tls_is_served_and_followed(tmp_path):
    """
    Both serve; one that leaves the file gets no more; a bad file changes nothing.
    """
    authority = Authority(tmp_path)
    path = tmp_path / "backends.yaml"
    one, two = (StandInEngine(authority.context("localhost"), KEY) for _ in range(2))
    flags = ("--backends-file", str(path), "--load-balance-method", "round_robin")
    with one, two:
        write(path, authority, one, two)
        with RunningInstance(*flags, environment={"K": KEY}) as door:
            eventually(lambda: ready(door) == 2, "both are ready")
            for _ in range(4):
                asked = {"model": "m", "prompt": "a"}
                httpx.post(f"{door.url}/v1/completions", json=asked).raise_for_status()
            assert (one.num_answered, two.num_answered) == (2, 2)

            path.write_text("backends: [{url: nowhere}]")
            eventually(lambda: door.metric("levelhead_backend_source_good") == 0, "the file is bad")
            assert ready(door) == 2
            write(path, authority, two)
            eventually(lambda: len(door.loads()) == 1, "one has left")
            assert door.metric("levelhead_backend_source_good") == 1
            assert door.metric("levelhead_backend_source_backends") == 1
            for _ in range(2):
                httpx.post(f"{door.url}/v1/completions", json=asked).raise_for_status()
            assert (one.num_answered, two.num_answered) == (2, 4)
            assert door.stop() == 0
        assert KEY not in "".join(door.output)
