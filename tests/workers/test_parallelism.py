"""A rank's place in its set, and what flags may say of it."""

import pytest

from tests.workers.test_config import arguments
from workers.config import parse
from workers.errors import InvalidConfig
from workers.parallelism import Parallelism


@pytest.fixture(name="flags")
def _flags(tmp_path):
    return {
        "--instance": "one", "--instance-epoch": "5", "--run-dir": str(tmp_path),
        "--dp-rank": "1", "--dp-size": "2", "--num-front-doors": "1",
        "--model": "m.gguf", "--served-model-name": "m",
    }  # fmt: skip


def place(flags, **more):
    given = {f"--{name.replace('_', '-')}": str(value) for name, value in more.items()}
    return parse([*arguments(flags | given), "--enable-dp-attention"]).parallelism


def test_the_ranks_of_a_group_are_next_to_each_other(flags):
    """
    The first one leads, and is who is meant if no rank is named.
    """
    leader, follower = place(flags, tp_size=6), place(flags, tp_size=6, tp_rank=5)

    assert leader == Parallelism(3, 6, 1, 2)
    assert (leader.attention_rank, leader.attention_size, leader.is_leader) == (0, 3, True)
    assert (follower.attention_rank, follower.is_leader) == (2, False)
    assert (follower.shard.rank, follower.shard.size) == (5, 6)
    assert (follower.attention_shard.rank, follower.attention_shard.size) == (2, 3)


def test_who_computes_alone_leads_a_set_of_one(flags):
    """
    Whatever the number of its group.
    """
    assert parse(arguments(flags)).parallelism == Parallelism(0, 1, 0, 1)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"tp_size": 5}, "--tp-size is 5; .* must be a multiple of --dp-size, 2"),
        ({"tp_size": 4, "tp_rank": 1}, "--tp-rank is 1; group 1 of 2 has ranks 2 to 3 of 4"),
        ({"tp_size": 4, "tp_rank": 4}, "--tp-rank is 4; group 1 of 2 has ranks 2 to 3 of 4"),
        (
            {"tp_size": 4, "dist_timeout": 3, "heartbeat_s": 3},
            "--dist-timeout is 3; .* must be more than --heartbeat-s, 3",
        ),
    ],
)
def test_a_place_that_there_cannot_be_is_refused(flags, more, message):
    """
    With the values that disagree, and those that are allowed.
    """
    with pytest.raises(InvalidConfig, match=message):
        place(flags, **more)


def test_each_rank_of_a_group_needs_a_key_head():
    """
    So the model bounds the ranks; the groups may be as many as one likes.
    """
    Parallelism(0, 6, 0, 2).check_heads(3)
    Parallelism(0, 64, 0, 64).check_heads(1)
    with pytest.raises(
        InvalidConfig, match=r"--tp-size is 8; with --dp-size 2 .* at most 6: the 4"
    ):
        Parallelism(0, 8, 0, 2).check_heads(3)
