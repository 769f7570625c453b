import random

import pytest

from balancer.controller import Controller
from balancer.ledger import Ledger
from balancer.policies.minimum_tokens import MinimumTokens
from tests.balancer.loads import EPOCH, MAX_LOAD_AGE_NS, NUM_GROUPS, SLOT, group


@pytest.fixture
def board():
    """Newest own cell of each group, as the board has it."""
    return {}


@pytest.fixture
def controller(board):
    ledger = Ledger(
        slot=SLOT,
        epoch=EPOCH,
        num_front_doors=2,
        num_groups=NUM_GROUPS,
        note=board.__setitem__,
    )
    policy = MinimumTokens(random.Random(0))
    controller = Controller(policy, ledger, NUM_GROUPS, random.Random(1), MAX_LOAD_AGE_NS)
    for dp_rank in range(NUM_GROUPS):
        controller.observe_group(group(dp_rank))
    yield controller
    controller.check_integrity()
