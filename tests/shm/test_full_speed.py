"""The load segment between real processes, with a writer that never pauses."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from shm import load
from shm.load import LoadReader
from tests.shm.full_speed import NUM_FRONT_DOORS, reports

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@contextmanager
def writer_process(instance, num_groups):
    command = [sys.executable, "-m", "tests.shm.full_speed", instance, str(num_groups)]
    with subprocess.Popen(command, cwd=ROOT) as writer:
        try:
            yield writer
        finally:
            writer.kill()


@pytest.fixture(name="attached")
def _attached(instance):
    """Makes the segment for a number of groups and attaches to it."""
    opened = []

    def attach(num_groups):
        opened.append(load.create(instance, num_groups, NUM_FRONT_DOORS, epoch=1))
        opened.append(LoadReader.attach(instance))
        return opened[-1]

    yield attach
    for one in opened:
        one.close()


def wait_for(reader, writer, sequence):
    """Let the writer run until it has published that sequence."""
    while reader.current_sequence < sequence:
        assert writer.poll() is None, "the writer ended"
        os.sched_yield()


def test_no_snapshot_is_a_mix(instance, attached):
    """
    200,000 snapshots beside a writer at full speed: each one whole, and none older than the last.
    """
    num_groups, last = 2, 0
    reader = attached(num_groups)
    with writer_process(instance, num_groups) as writer:
        wait_for(reader, writer, 1)
        for _ in range(200_000):
            snapshot = reader.snapshot()
            sequence = snapshot.sequence
            assert sequence >= last
            assert snapshot.published_ns == sequence
            assert snapshot.reports == reports(sequence, num_groups)
            last = sequence
    assert last > 1


def test_a_killed_writer_never_blocks_a_reader(instance, attached):
    """
    Killed twenty times wherever it happens to be: what it published last is
    whole at the first attempt, and its successor continues from there.
    """
    num_groups, last = 64, 0
    reader = attached(num_groups)
    for _ in range(20):
        with writer_process(instance, num_groups) as writer:
            wait_for(reader, writer, last + 20)
            writer.kill()
        snapshot = reader.snapshot()
        assert snapshot.sequence == reader.current_sequence > last
        assert snapshot.reports == reports(snapshot.sequence, num_groups)
        last = snapshot.sequence
