"""`levelhead simulate`: reads the traces, makes the runs, tells what they gave."""

from __future__ import annotations

import time
from typing import TextIO

import orjson

from router.simulate.options import SimulateOptions
from router.simulate.plot import plot
from router.simulate.progress import Progress
from router.simulate.runs import Run, plans, run
from router.simulate.table import table


def simulate_command(options: SimulateOptions, out: TextIO, err: TextIO) -> None:
    """Raises RouterError if something cannot be read or be; it does so before the first run."""
    planned = plans(options, lambda left_out: print(f"levelhead: {left_out}", file=err))
    num_requests = sum(len(plan.traffic.requests) for plan in planned)
    progress = Progress(err, num_requests, time.monotonic)
    made: list[Run] = []
    try:
        for plan in planned:
            progress.begin(str(plan))
            made.append(run(plan, progress.show))
    finally:
        progress.clear()
    if options.plot is not None:
        plot(made, options.plot)
    if options.as_json:
        out.write(orjson.dumps({"runs": [one.as_dict() for one in made]}).decode() + "\n")
    else:
        out.write(table(made))
