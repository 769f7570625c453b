"""A thread that cannot die unseen."""

from __future__ import annotations

import threading
from collections.abc import Callable

OnFatal = Callable[[BaseException], None]


def start_thread(name: str, run: Callable[[], None], on_fatal: OnFatal) -> None:
    """Call run in a daemon thread; whatever it raises goes to on_fatal."""

    def guarded() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - the outermost frame of the thread
            on_fatal(error)

    threading.Thread(target=guarded, name=name, daemon=True).start()
