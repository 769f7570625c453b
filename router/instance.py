"""
An instance: one `levelhead serve` on a host, as all its processes know it.

The root process writes the file once, before it starts anybody; a process that
is restarted reads the same one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from balancer.methods import DEFAULT_METHOD
from balancer.waiting_room import WaitingRules
from router.backends.backend import BackendGroup, Kind
from router.errors import ConfigError
from router.health_rules import HealthRules
from router.waiting_flags import waiting_rules
from shm.process import ProcessId

_FILE = "instance.json"


def _backend_group(kind: str, **fields: Any) -> BackendGroup:
    return BackendGroup(kind=Kind(kind), **fields)


@dataclass(frozen=True, slots=True)
class Instance:
    """What front doors and control plane are told.  Segment names follow from `name`."""

    name: str
    epoch: int
    run_dir: str
    """Private folder of the instance: sockets, group cards, tokenizer."""
    host: str
    port: int
    dp_size: int
    ranks_are_a_set: bool = False
    """Whether the groups' processes live, drain and end together."""
    num_front_doors: int = 1
    method: str = DEFAULT_METHOD
    max_load_age_s: float = 2.0
    """Age beyond which a group's figures count for nothing."""
    in_flight_board: bool = True
    """False: each front door sees only what it sent itself."""
    admission: str = "immediate"
    prefill_align: str = "off"
    max_hold_ms: int = 200
    max_waiting_requests: int = 1024
    """These four: see waiting_rules."""
    max_restart_wait_s: float = 0.0
    """Time for which requests wait for workers of ours that start again."""
    health: HealthRules = field(default_factory=HealthRules)
    """When a group that fails is avoided, and how a newcomer begins."""
    served_model_name: str = ""
    api_key: str | None = None
    admin_api_key: str | None = None
    """Of `/admin`; None: the api_key."""
    max_request_bytes: int = 32 << 20
    max_header_bytes: int = 64 << 10
    keep_alive_s: float = 75.0
    """Idle time after which a client's connection is closed."""
    request_timeout_s: float = 60.0
    """Time a client may take between two pieces of one request."""
    retry_max_retries: int = 2
    """Other groups that get a request whose group was lost or refused it."""
    drain_timeout_s: float = 30.0
    """Time that running requests get when a front door or a group stops."""
    request_log: str | None = None
    """File that front doors append a line to for each request; None: they write none."""
    instance_key: str = field(default="", repr=False)
    """Secret that front doors and control plane bring to the leaders."""
    backends: tuple[BackendGroup, ...] = ()
    """Groups of the engines that were told at the start, by dp_rank."""
    tokenizer_path: str | None = None
    """Folder of the backends' tokenizer; None: their prompts are estimated."""
    backends_file: str | None = None
    backend_dns: tuple[str, ...] = ()
    backend_kubernetes: tuple[str, ...] = ()
    kubernetes_api: str | None = None
    kubernetes_token_file: str | None = None
    kubernetes_ca_file: str | None = None
    """Who names more of them while the instance runs: see router.backends.sources."""
    max_groups: int | None = None
    """Slots for groups of backends; None: as many as there are groups."""
    root_pid: int = 0
    root_start_ticks: int = 0
    """Who made it: see shm.process."""
    seed: int | None = None
    log_level: str = "info"

    def save(self) -> None:
        """Write the file, readable by this user alone."""
        path = Path(self.run_dir) / _FILE
        path.touch(mode=0o600)
        path.write_bytes(orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2))

    @classmethod
    def load(cls, run_dir: Path) -> Instance:
        """Read the file; raises ConfigError if it is not there or not one."""
        path = run_dir / _FILE
        try:
            fields = orjson.loads(path.read_bytes())
            told = tuple(_backend_group(**each) for each in fields.pop("backends", ()))
            for name in ("backend_dns", "backend_kubernetes"):
                fields[name] = tuple(fields.get(name, ()))
            health = HealthRules(**fields.pop("health", {}))
            return cls(**fields, backends=told, health=health)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(
                "--run-dir", run_dir, f"there must be an instance in it ({error})"
            ) from error

    @property
    def waiting_rules(self) -> WaitingRules:
        """What front doors keep back, how many and how long."""
        return waiting_rules(
            self.admission, self.prefill_align, self.max_hold_ms, self.max_waiting_requests
        )

    @property
    def waits_for_groups(self) -> bool:
        """Whether requests wait for groups that start again: backends are not ours to start."""
        return self.max_restart_wait_s > 0 and not self.has_backends

    @property
    def has_backends(self) -> bool:
        """Whether groups are other people's engines, of which there may be none just now."""
        sources = (self.backends_file, self.backend_dns, self.backend_kubernetes)
        return bool(self.backends or any(sources))

    @property
    def num_slots(self) -> int:
        """What the segments have room for: dp_ranks are below."""
        return self.dp_size if self.max_groups is None else self.max_groups

    @property
    def root(self) -> ProcessId:
        """The process that made it, and that it ends with."""
        return ProcessId(self.root_pid, self.root_start_ticks)

    @property
    def control_socket(self) -> str:
        """Unix socket of the control plane."""
        return f"{self.run_dir}/control.sock"

    def meters_socket(self, slot: int) -> str:
        """Unix socket at which front door `slot` tells its figures."""
        return f"{self.run_dir}/front-door-{slot}.sock"

    def card(self, dp_rank: int) -> Path:
        """File that the leader of that group writes when it is ready."""
        return Path(self.run_dir) / f"group-{dp_rank}.json"
