"""One group that gets next to no processor: stopped for most of each second, and never for long."""

import os
import signal
import threading
import time

_STOPPED_S, _RUNNING_S = 0.9, 0.1
_LEVEL_S, _LIMIT_S = 30.0, 300.0
_ALERT = ("LevelheadGroupStarving", "plain", "1", "firing")


class Pulses:
    """SIGSTOP and SIGCONT in turns, from a thread, until stopped; the process goes on then."""

    def __init__(self, pid):
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._pulse, daemon=True)
        self._thread.start()

    def stop(self):
        self._over.set()
        self._thread.join()

    def _pulse(self):
        while not self._over.is_set():
            os.kill(self._pid, signal.SIGSTOP)
            try:
                self._over.wait(_STOPPED_S)
            finally:
                os.kill(self._pid, signal.SIGCONT)
            self._over.wait(_RUNNING_S)


def induce(asked, instance, on_firing):
    """Slow group 1 until its alert fires, and let it recover.  AssertionError at the limit."""
    time.sleep(_LEVEL_S)
    began_s, seen = time.monotonic(), set()

    def until(condition, what):
        while not condition():
            assert time.monotonic() < began_s + _LIMIT_S, f"not in {_LIMIT_S:.0f} s: {what}"
            for each in sorted(asked.alerts() - seen):
                seen.add(each)
                print(f"{time.monotonic() - began_s:5.0f} s: {' '.join(each)}", flush=True)
            time.sleep(1.0)

    print("    0 s: DP group 1 is stopped for nine tenths of each second", flush=True)
    pulses = Pulses(instance.children()["workers1"])
    try:
        until(lambda: _ALERT in seen, "its alert")
        on_firing()
    finally:
        pulses.stop()
    print(f"{time.monotonic() - began_s:5.0f} s: DP group 1 runs again", flush=True)
    until(lambda: _ALERT not in asked.alerts(), "the end of its alert")
    print(f"{time.monotonic() - began_s:5.0f} s: its alert is over", flush=True)
