"""
`python -m workers`: one rank.

Exit codes: 0 after a signal, 2 if what was asked for cannot work, 1 if something
broke.  Either way stderr has the reason, for 2 in one line.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from shm.errors import SegmentError
from workers import torchrun
from workers.config import WorkerConfig, parse
from workers.errors import InvalidConfig, RankLost, SetBroken
from workers.model.errors import ModelError

logger = logging.getLogger("levelhead.workers")


def main(arguments: Sequence[str]) -> int:
    """Run a rank to its end; return the exit code."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    torchrun.end_with_agent(os.environ)
    try:
        config = parse(arguments)
        logging.getLogger("levelhead").setLevel(config.log_level.upper())
        _run(config)
    except (InvalidConfig, ModelError, SegmentError) as error:
        logger.error("%s", error)
        return 2
    except SetBroken as error:
        logger.error("%s", error)
        return 1
    except Exception:
        logger.exception("the worker ends")
        return 1
    return 0


def _run(config: WorkerConfig) -> None:
    """Load and serve.  torch reads its environment when imported, so that comes after."""
    watch = SignalWatch()
    os.environ.setdefault("OMP_NUM_THREADS", str(config.threads))
    # Of a lost connection torch prints its own stack; we say in a line what it means.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    from workers import follower, leader

    if config.parallelism.is_leader:
        leader.run(config, on_loaded=watch.close, on_fatal=_die)
    else:
        follower.run(config, on_loaded=watch.close)


class SignalWatch:
    """
    Ends the process at SIGTERM or SIGINT while it loads.

    The main thread may then be inside torch for long, reading a model, and
    Python's handlers would wait with it.  The signal's number is
    written to a pipe at once, though, and a thread reads that.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        threading.Thread(target=self._run, name="signal-watch", daemon=True).start()

    def close(self) -> None:
        """Leave signals to others."""
        signal.set_wakeup_fd(-1)
        os.close(self._writer)

    def _run(self) -> None:
        number = os.read(self._reader, 1)
        os.close(self._reader)
        if number:
            logger.info("stopped by signal %d while loading", number[0])
            _leave(0)


def _die(error: BaseException) -> None:
    if isinstance(error, RankLost):  # the reason stands in that rank's log
        logger.critical("a rank of the set is lost, and this one ends with it: %s", error)
        _leave(1)
    logger.critical("a thread broke, and the worker ends with it", exc_info=error)
    _leave(1)


def _leave(code: int) -> NoReturn:
    """
    End the process without waiting for its threads.

    Those that receive load reports are inside torch.distributed and cannot be
    called back; whatever has to be undone has been by now.
    """
    logging.shutdown()
    os._exit(code)


if __name__ == "__main__":
    _leave(main(sys.argv[1:]))
