"""
A child to supervise: `python -m tests.router.sleeper MODE FILE`.

It appends a line to FILE when it is ready, and then, by its mode: sleeps,
sleeps and ignores SIGTERM, sleeps and exits with status 0 at SIGTERM, or exits
at once, with status 3 or, as a rank that lost another, 1.
"""

import os
import signal
import sys
import time


def main():
    mode, path = sys.argv[1:]
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "drained":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open(path, "a") as file:
        file.write(f"{os.getpid()} {time.monotonic()} {os.environ.get('SLEEPER', '')}\n")
    if mode == "brief":
        sys.exit(3)
    if mode == "bereft":
        sys.exit(1)
    time.sleep(60)


if __name__ == "__main__":
    main()
