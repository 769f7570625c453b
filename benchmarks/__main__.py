"""
Every benchmark in turn: `python -m benchmarks --quick`.

Each prints its own table and its own JSON line; see its module for what it
measures and how to read it.
"""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    "bench_dispatch",
    "bench_segment",
    "bench_prefix",
    "bench_proxy",
    "bench_level",
    "bench_balance",
    "bench_engine",
    "bench_draft_verify",
    "bench_step_law",
    "bench_report_cost",
    "bench_barrier_itl",
)


def main() -> None:
    """Run all, and fail if one failed."""
    failed = []
    for name in BENCHMARKS:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
