"""The collector of one scrape: what it is given, and nothing that it keeps."""

from __future__ import annotations

from prometheus_client.core import Metric


class Scrape:
    """A collector for one scrape."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """What there is."""
        return self._metrics

    def describe(self) -> list[Metric]:
        """Nothing that would be known before."""
        return []
