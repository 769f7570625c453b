import pytest

from workers.errors import InvalidConfig
from workers.lockstep.backend import choose_backend


@pytest.mark.parametrize(
    ("device", "num_ranks", "num_devices", "has_nccl", "expected"),
    [
        ("cpu", 4, 0, False, ("gloo", False)),
        ("cpu", 4, 8, True, ("gloo", False)),
        ("cuda", 4, 4, True, ("nccl", False)),
        ("cuda", 4, 8, True, ("nccl", False)),
        ("cuda", 4, 3, True, ("gloo", True)),
        ("cuda", 2, 1, True, ("gloo", True)),
        ("cuda", 4, 4, False, ("gloo", True)),
    ],
)
def test_ranks_use_nccl_if_each_has_a_device(device, num_ranks, num_devices, has_nccl, expected):
    """
    Ranks that share a device, or have no NCCL, go through host memory; on a CPU there is no other.
    """
    name, is_staged, why = choose_backend(device, num_ranks, num_devices, has_nccl)

    assert (name, is_staged) == expected
    assert why


def test_no_device_is_an_error():
    """
    Naming the flag.
    """
    with pytest.raises(InvalidConfig, match="--device is cuda"):
        choose_backend("cuda", 2, 0, True)
