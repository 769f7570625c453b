import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from router.errors import ConfigError, StartError
from router.instance import Instance
from router.serve import banner, reserve_port
from router.shared_memory import SharedMemory
from shm.errors import SegmentMissing
from shm.names import Kind, segment_name
from shm.segment import attach
from tests.router.asking import entry
from tests.router.fakes import unique_instance

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runtime():
    """A folder with a short name: what the path of a Unix socket may have is little."""
    with tempfile.TemporaryDirectory(prefix="lh") as folder:
        yield Path(folder)


@pytest.fixture
def command(runtime):
    """Runs `levelhead serve` under a name of its own, with a private folder for temporary files."""
    instance = unique_instance()
    environment = os.environ | {"XDG_RUNTIME_DIR": str(runtime), "PYTHONPATH": str(ROOT)}
    running = []

    def run(*flags):
        arguments = [sys.executable, "-m", "router.cli", "serve", "--instance", instance, *flags]
        process = subprocess.Popen(
            arguments, env=environment, cwd=runtime, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()
    assert leftovers(instance, runtime) == []


def leftovers(instance, runtime):
    """Segments and folders of that instance."""
    found = [str(path) for path in runtime.glob(f"levelhead-*/{instance}")]
    for kind in Kind:
        try:
            attach(segment_name(instance, kind), kind).close()
        except SegmentMissing:
            continue
        found.append(kind.name)
    return found


def told_at_end(process):
    """The last line of standard error of a process that ends, and its status."""
    _, told = process.communicate(timeout=60)
    return told.splitlines()[-1], process.returncode


def test_a_port_in_use_is_refused_and_nothing_is_left(command):
    """
    One clear line, status 2, and no segment or folder remains.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        told, status = told_at_end(command("--port", str(port)))

    assert status == 2
    assert told.startswith(f"levelhead: --port {port}: cannot listen on 127.0.0.1:{port}: ")


def test_a_model_that_is_not_there_is_refused_and_nothing_is_left(command):
    """
    Before any process is started.
    """
    told, status = told_at_end(command("--port", "0", "--model", "/no/such/model"))

    assert status == 2
    assert told.startswith("levelhead: --model /no/such/model: ")


def test_as_many_files_may_be_open_as_the_system_allows(command):
    """
    From the start on, so that every process that is started inherits it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
    try:
        process = command("--port", "0", "--model", "/no/such/model", "--log-level", "debug")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    _, told = process.communicate(timeout=60)

    assert f"a process may have {hard} files open" in told


def test_an_instance_that_runs_is_not_started_twice(command):
    """
    Its segments' owner is alive.
    """
    process = None
    with SharedMemory.create(name := unique_instance(), 1, 1, 1):
        process = command("--port", "0", "--model", str(ROOT), "--instance", name)

        told, status = told_at_end(process)

        assert status == 2
        assert f"instance '{name}' cannot start" in told
        attach(segment_name(name, Kind.LOAD), Kind.LOAD).close()


@pytest.mark.slow
def test_a_model_that_the_ranks_cannot_load_ends_the_start(command, tmp_path):
    """
    The root says which process ended, with status 2, and leaves nothing.
    """
    model = tmp_path / "broken.gguf"
    model.write_bytes(b"GGUF, but not really")

    told, status = told_at_end(command("--port", "0", "--model", str(model), "--dp-size", "1"))

    assert status == 2
    assert told == "levelhead: rank 0 exited with status 2 before it was ready"


@pytest.mark.slow
def test_a_control_plane_that_cannot_start_ends_the_start(command, runtime):
    """
    It is not tried again and again while nobody knows of the groups.
    """
    (runtime / "model.gguf").write_bytes(b"GGUF")
    (runtime / "prometheus_client.py").write_text("raise ImportError('not installed')")

    told, status = told_at_end(command("--port", "0", "--model", "model.gguf", "--dp-size", "1"))

    assert status == 2
    assert told == "levelhead: control plane exited with status 1 before it was ready"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_starts_ends_it_and_nothing_is_left(command, runtime, number):
    """
    Whoever has been started by then is stopped.
    """
    (runtime / "model.gguf").write_bytes(b"GGUF")
    process = command("--port", "0", "--model", "model.gguf", "--dp-size", "1")
    while "starting" not in process.stderr.readline():
        assert process.poll() is None

    process.send_signal(number)

    _, told = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "stopping" in told
    deadline_s = time.monotonic() + 10
    while anybody_runs(runtime) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not anybody_runs(runtime)


@pytest.mark.slow
def test_the_processes_are_told_what_the_flags_say(command, runtime):
    """
    Each finds it in the instance's file, in each of its lives.
    """
    (runtime / "model.gguf").write_bytes(b"GGUF")
    process = command(
        *("--port", "0", "--model", "model.gguf", "--dp-size", "3", "--front-doors", "4"),
        *("--max-load-age", "0.5", "--retry-max-retries", "7", "--drain-timeout-s", "8"),
        *("--api-key", "k", "--admin-api-key", "a", "--no-in-flight-board"),
    )
    while "starting" not in process.stderr.readline():
        assert process.poll() is None
    (folder,) = runtime.glob("levelhead-*/*")
    told = Instance.load(folder)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)

    assert (told.dp_size, told.num_front_doors) == (3, 4)
    assert (told.max_load_age_s, told.retry_max_retries, told.drain_timeout_s) == (0.5, 7, 8.0)
    assert (told.api_key, told.admin_api_key) == ("k", "a")
    assert not told.in_flight_board


def anybody_runs(folder):
    """Whether any process still runs with that folder in its command line."""
    word = str(folder).encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if word in path.read_bytes():
                return True
        except OSError:
            continue
    return False


# The port


def test_a_free_port_is_found_and_kept():
    """
    Others cannot have it while it is reserved; a front door can share it.
    """
    with reserve_port("127.0.0.1", 0) as reserved:
        port = reserved.getsockname()[1]
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


@pytest.mark.parametrize("host", ["192.0.2.1", "not..a.name"])
def test_an_address_of_another_machine_is_refused(host):
    """
    Naming the flag and the address.
    """
    with pytest.raises(ConfigError, match=f"--host {host}"):
        reserve_port(host, 0)


# Segments


def test_segments_live_as_long_as_their_instance():
    """
    All three, and none afterwards.
    """
    name = unique_instance()
    with SharedMemory.create(name, 1, 2, 1):
        for kind in Kind:
            attach(segment_name(name, kind), kind).close()
        with pytest.raises(StartError, match="alive"):
            SharedMemory.create(name, 2, 2, 1)
        attach(segment_name(name, Kind.BOARD), Kind.BOARD).close()
    for kind in Kind:
        with pytest.raises(SegmentMissing):
            attach(segment_name(name, kind), kind)


# The greeting


def test_the_greeting_has_a_command_to_paste():
    """
    With the model's name, and with the key's variable rather than the key.
    """
    instance = Instance("one", 1, "/x", "127.0.0.1", 8001, 2, served_model_name="m", api_key="k9")

    told = banner(instance, [entry(0), entry(1)])

    assert "http://127.0.0.1:8001/v1/chat/completions" in told
    assert '"model": "m"' in told
    assert "(2 DP groups, " in told
    assert "$LEVELHEAD_API_KEY" in told
    assert "k9" not in told


def test_the_greeting_names_a_model_that_backends_serve():
    """
    Which nobody knew at the start, where they come from a file.
    """
    instance = Instance("one", 1, "/x", "127.0.0.1", 8001, 0)

    told = banner(instance, [entry(3, model="", models=("served", "adapter"))])

    assert '"model": "served"' in told
    assert "(1 DP groups, " in told
    assert '"model": "MODEL"' in banner(instance, [])
