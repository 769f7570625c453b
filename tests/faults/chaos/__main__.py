"""
`python -m tests.faults.chaos --seed 1 --seconds 300`: break everything, and count what broke.

Progress goes to standard error.  The last line of standard output is one JSON object; the exit
status is 1 if any of its last seven figures is not 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.chaos.run import run_chaos
from tests.workers.tiny import write_tiny_llama


def main() -> int:
    """Run it, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--load-balance-method", default="minimum_tokens", metavar="METHOD")
    parser.add_argument("--log", type=Path, help="where to keep what the instance logged")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = write_tiny_llama(Path(folder) / "model")
        report = run_chaos(
            model,
            arguments.seed,
            arguments.seconds,
            arguments.log,
            arguments.load_balance_method,
        )
    sys.stdout.write(report.line() + "\n")
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
