"""Who names backends while the instance runs, by its flags."""

from __future__ import annotations

from router.backends.source import BackendSource
from router.instance import Instance


def sources_of(instance: Instance) -> list[BackendSource]:
    """One for each that was asked for; the first counts first where two differ."""
    return []
