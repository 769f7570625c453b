"""How many groups of backends there may be."""

import pytest

from router.errors import ConfigError
from router.group_source import group_source
from router.instance import Instance
from router.options import parse_serve

TWO = ["--backend", "http://127.0.0.1:9,kind=vllm,dp-size=2"]


def slots(*flags):
    return group_source(parse_serve([*TWO, *flags], {})).num_slots


def test_there_are_slots_for_those_that_come():
    """
    64 unless told, and never fewer than there are groups at the start.
    """
    assert slots() == 64
    assert slots("--max-groups", "2") == 2
    assert (
        group_source(
            parse_serve(["--backend", "http://127.0.0.1:9,kind=vllm,dp-size=70"], {})
        ).num_slots
        == 70
    )


def test_fewer_slots_than_groups_are_refused():
    """
    Naming both.
    """
    with pytest.raises(ConfigError, match="--max-groups 1: there are 2 DP groups behind"):
        slots("--max-groups", "1")


@pytest.mark.parametrize("number", ["0", "1025", "x"])
def test_a_number_of_slots_that_cannot_be_is_refused(number):
    """
    With the range.
    """
    with pytest.raises(ConfigError, match="1024"):
        slots("--max-groups", number)


def test_workers_of_ours_do_not_come():
    """
    There are as many as were started.
    """
    with pytest.raises(ConfigError, match="--max-groups 8: is for backends"):
        parse_serve(["--max-groups", "8"], {})


def test_an_instance_may_begin_with_a_source_alone(tmp_path):
    """
    It is one of backends, and is read as it was written.
    """
    instance = Instance(
        "i", 1, str(tmp_path), "h", 0, 0, max_groups=64, backends_file="some.yaml",
        backend_dns=("a", "b"), backend_kubernetes=("c",),
    )  # fmt: skip
    instance.save()

    assert Instance.load(tmp_path) == instance
    assert (instance.has_backends, instance.num_slots) == (True, 64)
    assert not Instance("i", 1, str(tmp_path), "h", 0, 2).has_backends
