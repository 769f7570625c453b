"""
`python -m tests.deploy.live`: does every expression of the dashboard and the rules return data?

The last line is "n of n expressions return data"; the exit status is 0 if these are all, 1 if they
are not, and 69 if there is no Prometheus to ask.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.grafana.series import Range
from tests.deploy.live import prometheus, starvation
from tests.deploy.live.expressions import all_expressions, has_data
from tests.deploy.live.stage import set_up
from tests.workers.tiny import write_tiny_llama

_LIMIT_S = 180.0
_PERIOD_S = 2.0
_NO_PROMETHEUS = 69
_PICTURED = "plain|barrier"


def main():
    """Run it, and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.live")
    parser.add_argument("--starve", action="store_true",
                        help="then slow one group with SIGSTOP until its alert fires")  # fmt: skip
    parser.add_argument("--picture", type=Path, help="then draw the dashboard into this PNG")
    parser.add_argument("--row", action="append", default=[], help="of the picture; else all")
    arguments = parser.parse_args()
    try:
        print("asked is", prometheus.find(), flush=True)
    except prometheus.NotFound as error:
        print(f"THE DASHBOARD WAS NOT CHECKED: {error}", file=sys.stderr)
        return _NO_PROMETHEUS
    tested = subprocess.run(
        [prometheus.find("promtool"), "test", "rules", *prometheus.TESTS],
        cwd=prometheus.RULES, check=False,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return _check(Path(folder), arguments) or tested.returncode


def _check(folder, arguments):
    model = write_tiny_llama(folder / "model")
    with set_up(model) as instances:
        targets = {name: each.url.removeprefix("http://") for name, each in instances.items()}
        with prometheus.running(targets, folder) as asked:
            draw = _drawing(asked, arguments)
            expressions = all_expressions()
            without = _without_data(asked, expressions)
            if arguments.starve:
                starvation.induce(asked, instances["plain"], draw)
            else:
                draw()
    for each in without:
        print(f"no data: {each.where}: {' '.join(each.text.split())}")
    print(f"{len(expressions) - len(without)} of {len(expressions)} expressions return data")
    return 1 if without else 0


def _drawing(asked, arguments):
    """Draws what there was from now until it is called, if that is wanted."""
    began_s = time.time()

    def draw():
        if arguments.picture:
            from deploy.grafana import picture  # which wants Matplotlib: of the extra `bench`

            when = Range(began_s, time.time())
            picture.draw(asked.url, when, arguments.picture, arguments.row, _PICTURED)

    return draw


def _without_data(asked, expressions):
    """Those that have returned no number by the limit: what is measured takes its time."""
    deadline, left = time.monotonic() + _LIMIT_S, expressions
    while left and time.monotonic() < deadline:
        time.sleep(_PERIOD_S)
        left = [each for each in left if not has_data(asked.ask(each.text))]
    return left


if __name__ == "__main__":
    sys.exit(main())
