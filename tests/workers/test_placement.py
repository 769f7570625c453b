import pytest
import torch

from workers.errors import InvalidConfig
from workers.placement import Machine, choose_device, choose_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
BARE = Machine(num_cuda_devices=0, has_fast_bfloat16=False)


def test_groups_are_dealt_out_over_the_cuda_devices(caplog):
    """
    One each as long as there are enough, and nobody is warned.
    """
    machine = BARE._replace(num_cuda_devices=4)

    devices = [choose_device("cuda", rank, 4, machine) for rank in range(4)]

    assert devices == [torch.device("cuda", index) for index in range(4)]
    assert caplog.records == []


def test_groups_that_share_a_device_say_so(caplog):
    """
    Five groups on two devices: each log names the device and the others on it.
    """
    machine = BARE._replace(num_cuda_devices=2)

    devices = [choose_device("cuda", rank, 5, machine).index for rank in range(5)]

    assert devices == [0, 1, 0, 1, 0]
    messages = [record.getMessage() for record in caplog.records]
    assert messages[:2] == [
        "group 0 shares cuda:0 with groups [2, 4]",
        "group 1 shares cuda:1 with groups [3]",
    ]


def test_cuda_without_a_device_is_refused():
    """
    With the torch that was asked, which may be one for CPUs only.
    """
    with pytest.raises(InvalidConfig, match=rf"cuda; torch {torch.__version__[:3]}.* no CUDA dev"):
        choose_device("cuda", 0, 1, BARE)


@pytest.mark.parametrize(
    ("name", "device", "is_fast", "expected"),
    [
        ("auto", CPU, False, torch.float32),
        ("auto", CPU, True, torch.bfloat16),
        ("auto", CUDA, False, torch.bfloat16),
        ("float16", CPU, True, torch.float16),
        ("bfloat16", CPU, False, torch.bfloat16),
    ],
)
def test_auto_is_bfloat16_only_where_that_is_fast(name, device, is_fast, expected):
    """
    Another dtype is taken as it was asked for.
    """
    machine = BARE._replace(has_fast_bfloat16=is_fast)

    assert choose_dtype(name, device, machine) == expected


def test_this_machine_can_be_asked():
    """
    Whatever it has, and whatever this torch was built with.
    """
    machine = Machine.here()

    assert machine.num_cuda_devices >= 0
    assert machine.has_fast_bfloat16 in (True, False)
