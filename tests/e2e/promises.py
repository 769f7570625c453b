"""What an OpenAPI document promises, asked of a running instance by schemathesis."""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.e2e.instance import RunningInstance

OPERATOR = {"LEVELHEAD_ADMIN_API_KEY": "operator"}
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def broken_promises(instance: RunningInstance, *flags: str) -> str:
    """
    What schemathesis has to say against it, asking with an operator's key; nothing if it is true.
    """
    with tempfile.TemporaryDirectory() as folder:  # it keeps what it found, to ask that again
        done = _asked(instance, flags, folder)
    return "" if done.returncode == 0 else done.stdout + done.stderr or str(done.returncode)


def _asked(
    instance: RunningInstance, flags: tuple[str, ...], folder: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")), "run",
            f"{instance.url}/openapi.json",
            "--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing",
            "--max-examples", "15", "--seed", "1", "--request-timeout", "20",
            "--header", "Authorization: Bearer operator", "--no-color", *flags,
        ],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=folder,
    )  # fmt: skip
