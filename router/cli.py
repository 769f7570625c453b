"""`levelhead`: the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from router.errors import RouterError
from router.options import parse_serve
from router.serve import serve
from router.simulate.command import simulate_command
from router.simulate.options import parse_simulate
from router.top.options import parse_top

_USAGE = """\
usage: levelhead COMMAND [FLAGS]

Keeps the data-parallel groups of an LLM serving engine level.

commands:
  serve       start DP groups and a front door (OpenAI API) that balances them
  top         show the DP groups of a running instance live, in the terminal
  simulate    replay a trace through the methods, on simulated DP groups

levelhead COMMAND --help tells the flags of a command.
"""


def _top(given: Sequence[str]) -> None:
    from router.top.command import top_command  # rich: nobody else waits for it

    top_command(parse_top(given, os.environ), os.environ, sys.stdout)


_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "serve": lambda given: serve(parse_serve(given)),
    "top": _top,
    "simulate": lambda given: simulate_command(parse_simulate(given), sys.stdout, sys.stderr),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a bad flag or a failed start prints one line and exits with 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(_USAGE)
        return
    command = _COMMANDS.get(given[0])
    if command is None:
        allowed = ", ".join(_COMMANDS)
        sys.exit(f"levelhead: unknown command {given[0]!r}: allowed are {allowed}; see --help")
    try:
        command(given[1:])
    except RouterError as error:
        sys.stderr.write(f"levelhead: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)  # as shells tell it; `serve` ends in order on its own


if __name__ == "__main__":
    main()
