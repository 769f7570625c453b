import asyncio
import signal
from functools import partial

import pytest

from workers.server.drain import Drain
from workers.server.serving import Calls, LeaderServer

TERM, INT = signal.SIGTERM, signal.SIGINT


class Silence:
    """No signal came before the server listened for them."""

    num_heard = 0


def told(*signals):
    """What a server with a request open does when it is sent these signals."""

    async def run():
        called = []
        calls = Calls(
            partial(called.append, "started"),
            partial(called.append, "draining"),
            partial(called.append, "stopping"),
        )
        drain = Drain(30.0, lambda: 1000.0)
        server = LeaderServer(None, calls, drain, Silence())
        with drain.request():
            for number in signals:
                server.handle_exit(number, None)
                await asyncio.sleep(0)
        return called, server.should_exit, server.force_exit

    return asyncio.run(run())


@pytest.mark.parametrize("signals", [[TERM], [TERM] * 4, [INT], [TERM, INT], [INT, TERM, TERM]])
def test_it_drains_once_however_often_it_is_told(signals):
    """
    Root, control plane and a service manager may all send SIGTERM, none knowing of the others.
    """
    assert told(*signals) == (["draining"], False, False)


@pytest.mark.parametrize("signals", [[INT, INT], [TERM, INT, INT], [INT, TERM, INT]])
def test_a_second_sigint_cuts_the_drain(signals):
    """
    Somebody at a terminal does not want to wait.
    """
    assert told(*signals) == (["draining", "stopping"], True, False)


def test_a_third_sigint_spares_the_ends_of_answers():
    """
    And is the last that there is to say.
    """
    called, should_exit, force_exit = told(INT, INT, INT)

    assert called[:2] == ["draining", "stopping"]
    assert (should_exit, force_exit) == (True, True)
