import resource
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from workers.emulation.barrier import Round
from workers.emulation.step_cost import StepCost, StepShare
from workers.emulation.step_log import StepLog
from workers.errors import InvalidConfig

COST = StepCost(10.0, 0.0, 1.0, 0.0)


@contextmanager
def at_most(num_bytes):
    """Files do not grow beyond that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def ended(number):
    return Round(number, 0.0, 11.0, 0.0, 0.0, {0: StepShare(100, 1, 0)})


def test_a_log_that_cannot_be_opened_is_refused(tmp_path):
    """
    At the start, not at the first step.
    """
    with pytest.raises(InvalidConfig, match="--emulated-step-log"):
        StepLog(tmp_path / "none" / "steps.jsonl", COST)


def test_a_log_that_cannot_be_written_any_more_is_given_up(caplog):
    """
    Steps go on without it; a full disk is told once.
    """
    with closing(StepLog(Path("/dev/full"), COST)) as log:
        log.write(ended(7))
        log.write(ended(8))

    (record,) = caplog.records
    assert "from round 7 on" in record.getMessage()
    assert "No space left" in record.getMessage()


def test_nothing_follows_a_line_that_was_written_in_part(tmp_path, caplog):
    """
    Or the next would be torn, too: whoever reads the log leaves out a last line only.
    """
    path = tmp_path / "steps.jsonl"
    with closing(StepLog(path, COST)) as log:
        log.write(ended(1))
        whole = path.read_bytes()
        with at_most(len(whole) + 20):
            log.write(ended(2))
        log.write(ended(3))

    assert len(path.read_bytes()) == len(whole) + 20
    assert "in part" in caplog.text
