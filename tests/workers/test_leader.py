"""What a rank is put together from, as far as flags decide it."""

import pytest

from tests.workers.fakes import SlotRunner, make_request
from workers.config import parse
from workers.engine.pages import PagePool
from workers.leader import make_cache, make_scheduler

SHARED = list(range(40))


def first_admitted(tmp_path, *flags):
    """Who runs first: 2, which came first, or 3, cached before; and how many tokens it found."""
    config = parse([
        "--instance", "one", "--instance-epoch", "5", "--run-dir", str(tmp_path),
        "--dp-rank", "0", "--dp-size", "1", "--num-front-doors", "1",
        "--model", "m.gguf", "--served-model-name", "m", "--max-running-requests", "1", *flags,
    ])  # fmt: skip
    pool, runner = PagePool(20, config.page_size), SlotRunner(16)
    scheduler = make_scheduler(config, pool, make_cache(config))
    scheduler.add(make_request(1, SHARED, 1))
    plan = scheduler.plan()
    scheduler.commit(plan, runner.run(plan))
    scheduler.add(make_request(2, [7] * 40, 1))
    scheduler.add(make_request(3, SHARED, 1))
    [chunk] = scheduler.plan().chunks
    return chunk.request.request_id, chunk.start


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], (3, 32)),
        (["--schedule-policy", "lpm"], (3, 32)),
        (["--schedule-policy", "fcfs"], (2, 0)),
        (["--disable-radix-cache"], (2, 0)),
    ],
)
def test_flags_decide_about_order_and_cache(tmp_path, flags, expected):
    """
    The longest cached prefix goes first; by arrival if told so, or if nothing is cached.
    """
    assert first_admitted(tmp_path, *flags) == expected
