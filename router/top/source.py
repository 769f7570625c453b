"""Which instance is looked at, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from router.errors import ConfigError
from router.instance import Instance
from router.run_folder import running_instances
from router.top.http_source import HttpSource
from router.top.options import TopOptions
from router.top.picture import Look
from router.top.segment_source import SegmentSource


class Source(Protocol):
    """An instance as it is looked at."""

    async def look(self) -> Look:
        """What it tells now.  Raises NoPicture."""

    async def close(self) -> None:
        """Let go of it."""


def source_of(options: TopOptions, environment: Mapping[str, str]) -> Source:
    """
    The one that was asked for, or the only one.  Raises ConfigError, naming those that run.

    What backends tell of themselves only their control plane knows, so it is asked; workers of
    ours tell it to the segments.
    """
    if options.url is not None:
        return HttpSource.of_url(options.url, options.api_key, options.admin_api_key)
    found = _chosen(options.instance, running_instances(environment))
    return HttpSource.of_control_plane(found) if found.has_backends else SegmentSource(found)


def _chosen(name: str | None, running: list[Instance]) -> Instance:
    names = ", ".join(each.name for each in running)
    if name is not None:
        for each in running:
            if each.name == name:
                return each
        raise ConfigError("--instance", name, f"running here: {names or 'none'}")
    if not running:
        raise ConfigError(
            "URL", "not given", "needed where no instance of this user runs on this host"
        )
    if len(running) > 1:
        raise ConfigError("--instance", "not given", f"needed where several run: {names}")
    return running[0]
