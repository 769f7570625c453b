"""
An engine's own balancer and ours, side by side: `python -m tests.peers.bench --engine vllm`.

Starts the engine and `levelhead serve` before it, and runs benchmarks.bench_backends on both,
in turns, seed after seed; more flags are those of that module (--requests --rate --seeds
--cancelled).
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bench_backends import measure, parser
from tests.peers.engines import KINDS
from tests.peers.install import INSTALLED, state_of
from tests.peers.site import Engines, open_site


def main() -> None:
    """Measure; the engine is stopped however that ends."""
    flags = parser()
    ranked = [name for name, kind in KINDS.items() if kind.num_ranks > 1]
    flags.add_argument("--engine", choices=ranked, default="vllm")
    arguments = flags.parse_args()
    for name in ("model", arguments.engine):
        if state_of(name) != INSTALLED:
            sys.exit(f"{name} is not installed: {state_of(name)}")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="levelhead-peers-"))
        engines = Engines(Path(folder))
        stack.callback(engines.stop)
        site = open_site(stack, engines.wanted((arguments.engine,)))
        urls = [(arguments.engine, site.engines[0].url), ("levelhead", site.door.url)]
        measure(urls, arguments)


if __name__ == "__main__":
    main()
