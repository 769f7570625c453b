"""`levelhead`: the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from router.errors import RouterError
from router.options import parse_serve
from router.serve import serve

_USAGE = """\
usage: levelhead COMMAND [FLAGS]

Keeps the data-parallel groups of an LLM serving engine level.

commands:
  serve       start DP groups and a front door (OpenAI API) that balances them

levelhead COMMAND --help tells the flags of a command.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; a bad flag or a failed start prints one line and exits with 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given or given[0] in ("-h", "--help"):
        sys.stdout.write(_USAGE)
        return
    if given[0] != "serve":
        sys.exit(f"levelhead: unknown command {given[0]!r}: allowed are serve; see --help")
    try:
        serve(parse_serve(given[1:]))
    except RouterError as error:
        sys.stderr.write(f"levelhead: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
