"""
The step loop of a DP group, in a thread of its own.

    take arrivals ─► plan ─► report ─► forward and sample ─► commit ─► deliver ─┐
         ▲                             └ foresee, prepare ┘                     │
         └───────────── idle: wait for an arrival, at most a heartbeat ◄────────┘

While a step is computed, the tensors of the one that probably follows are made
(workers.engine.foresight), if the runner has a thread for that.  Nothing else
happens meanwhile: arrivals are taken in, and requests change, between steps.  So
a report is as exact as without, and nobody waits longer to be admitted.

Each round makes one report.  The round after the last finish plans nothing and
reports that nothing is held, and only then does the loop wait: an idle group
never looks busy.

The loop alone touches scheduler, counters and runner, so none of them has a
lock.  Arrivals come through the inbox; outputs leave through `deliver`, and
reports through `report`, both of which return at once.

A step that raises ends its own requests, with the cause; the loop goes on.
After max_failed_steps in a row, or if anything else raises, the loop ends and
`on_fatal` is told why: what is left then is not worth trusting.  So it does at
once if ranks compute together and one of them cannot: none can go on alone.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from shm.load import LoadReport
from workers.engine.acceptance import AcceptedCounters
from workers.engine.inbox import Abort, Arrival, Inbox, Look, Settle, Submit
from workers.engine.meter import LoadMeter
from workers.engine.plan import Chunk, Plan
from workers.engine.request import Output, Request, Sample
from workers.engine.scheduler import Scheduler
from workers.errors import RequestRefused, SetBroken, StepFailed, Stopping

logger = logging.getLogger("levelhead.workers.engine")

MAX_FAILED_STEPS = 3


class Runner(Protocol):
    """What computes a plan; workers.engine.runner has the real one."""

    def warm_up(self, wake: Callable[[], None]) -> None:
        """
        Get ready to compute; called once, in the step loop's thread.

        wake: for whoever finds, while the loop waits for arrivals, that it is to go on.
        From any thread.
        """

    @property
    def looks_ahead(self) -> bool:
        """Whether preparing takes no time from what is being computed."""

    def launch(self, plan: Plan) -> Callable[[], Sequence[Sample]]:
        """
        Begin to compute the plan's chunks.

        What comes back waits for one sample of each that yields any, in order.
        """

    def prepare(self, decodes: Sequence[Chunk]) -> None:
        """Get ready for what probably follows the plan being computed; it may be nothing."""

    def rest(self) -> bool:
        """
        There is nothing to compute until the next launch; said at every idle round.

        Whether others compute, and the loop is not to wait for arrivals.
        """

    def leave(self) -> None:
        """There is nothing to compute any more; said last."""

    def stop(self) -> None:
        """The loop is to end: whatever waits for others waits no more.  From any thread."""


class Ports(NamedTuple):
    """
    How the step loop speaks to the rest of the process.  None of these may block.

    deliver: the outputs of one step.  report: what the group holds now.
    on_fatal: the loop has ended, and this is why.
    """

    deliver: Callable[[Sequence[Output]], None]
    report: Callable[[LoadReport], None]
    on_fatal: Callable[[BaseException], None]


class Engine:
    """Takes requests through the inbox and computes them to their end."""

    def __init__(
        self,
        inbox: Inbox,
        scheduler: Scheduler,
        runner: Runner,
        accepted: AcceptedCounters,
        meter: LoadMeter,
        ports: Ports,
        heartbeat_s: float,
    ) -> None:
        self._inbox = inbox
        self._scheduler = scheduler
        self._runner = runner
        self._accepted = accepted
        self._meter = meter
        self._ports = ports
        self._heartbeat_s = heartbeat_s
        self._num_failed_steps = 0
        self._is_checked = False
        self._thread = threading.Thread(target=self._run, name="step-loop", daemon=True)

    def start(self) -> None:
        """Start the step loop."""
        self._thread.start()

    def stop(self) -> None:
        """Let no more requests in; those that are left end, with Stopping, before the loop."""
        self._inbox.close()
        self._runner.stop()

    def join(self, timeout_s: float) -> bool:
        """Wait for the step loop to end; whether it has."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._runner.warm_up(self._inbox.wake)
            is_idle = False
            while not self._inbox.is_closed:
                is_idle = self.step(self._heartbeat_s if is_idle else 0.0)
            self._end()
        except BaseException as error:  # noqa: BLE001 - the outermost loop of the thread
            self._ports.on_fatal(error)

    def step(self, wait_s: float) -> bool:
        """One round; waits at most wait_s for an arrival.  Whether nobody had anything to do."""
        arrivals = self._inbox.take(wait_s)
        outputs = self._take_in(arrivals)
        plan = self._scheduler.plan()
        outputs += plan.failed
        self._report(plan.num_prefill_tokens)
        if outputs:
            self._ports.deliver(outputs)
        if plan.chunks:
            outputs = self._compute(plan)
            if any(output.finish_reason is not None for output in outputs):
                # Whoever has a whole answer may ask again at once: what it held is free by then.
                self._report()
            self._ports.deliver(outputs)
        others_compute = not plan.chunks and self._runner.rest()
        self._check_when_idle(has_news=bool(arrivals or plan.chunks))
        return not plan.chunks and not others_compute

    def _report(self, computing_tokens: int = 0) -> None:
        """What has left since the last report ends in this one."""
        for request in self._scheduler.take_left():
            self._count_end(request)
        self._ports.report(self._meter.sample(self._scheduler, self._accepted, computing_tokens))

    def _count_end(self, request: Request) -> None:
        if request.ticket is not None:
            self._accepted.leave(request.ticket)

    def _check_when_idle(self, has_news: bool) -> None:
        """Check once when the last request has left, and not at every heartbeat after."""
        self._is_checked = self._is_checked and not has_news
        if self._scheduler.is_idle and not self._is_checked:
            self._scheduler.check_integrity()
            self._is_checked = True

    def _take_in(self, arrivals: list[Arrival]) -> list[Output]:
        refused = []
        for arrival in arrivals:
            match arrival:
                case Submit(request):
                    if request.ticket is not None:
                        self._accepted.enter(request.ticket)
                    refused += self._add(request)
                case Settle(charge):
                    self._accepted.count(charge)
                    self._accepted.end(charge)
                case Abort(request_id):
                    self._scheduler.abort(request_id)
                case Look(take):
                    take()
        return refused

    def _add(self, request: Request) -> list[Output]:
        try:
            self._scheduler.add(request)
        except RequestRefused as error:
            self._count_end(request)
            return [Output(request.request_id, error=error)]
        return []

    def _compute(self, plan: Plan) -> list[Output]:
        started_ns = time.monotonic_ns()
        try:
            samples = self._run_plan(plan)
        except SetBroken:
            raise
        except Exception as error:
            self._num_failed_steps += 1
            logger.exception("step %d failed, its requests end", self._meter.num_steps + 1)
            if self._num_failed_steps >= MAX_FAILED_STEPS:
                raise
            return self._scheduler.fail(plan, StepFailed(error))
        self._num_failed_steps = 0
        outputs = self._scheduler.commit(plan, samples)
        self._meter.count_step(started_ns, plan.num_prefill_tokens)
        return outputs

    def _run_plan(self, plan: Plan) -> Sequence[Sample]:
        wait = self._runner.launch(plan)
        try:
            if self._runner.looks_ahead:
                self._runner.prepare(self._scheduler.foresee(plan))
        finally:
            samples = wait()  # whatever happens, nothing is computed any more after it
        return samples

    def _end(self) -> None:
        outputs = self._take_in(self._inbox.take(0.0))
        outputs += self._scheduler.abort_all(Stopping())
        self._ports.deliver(outputs)
        self._report()
        self._runner.leave()
