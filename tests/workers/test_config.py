import pytest

from workers.card import Card
from workers.config import parse
from workers.errors import InvalidConfig


@pytest.fixture(name="flags")
def _flags(tmp_path):
    return {
        "--instance": "one", "--instance-epoch": "5", "--run-dir": str(tmp_path),
        "--dp-rank": "0", "--dp-size": "2", "--num-front-doors": "1",
        "--rendezvous": "file:///x", "--model": "m.gguf", "--served-model-name": "m",
    }  # fmt: skip


def arguments(flags):
    return [part for flag in flags.items() for part in flag]


def test_what_is_omitted_has_a_default(flags):
    """
    The context length alone has none: it is the model's.
    """
    config = parse(arguments(flags))

    assert (config.host, config.heartbeat_s, config.page_size) == ("127.0.0.1", 0.25, 16)
    assert config.max_request_bytes == 32 * 1024 * 1024
    assert config.max_model_len is None


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--dp-rank", "2", r"--dp-rank is 2; with --dp-size 2 it must be in \[0, 1\]"),
        ("--threads", "0", "0 is less than 1"),
        ("--threads", "many", "invalid integer value: 'many'"),
        ("--heartbeat-s", "0", "not a positive number"),
        ("--device", "tpu", "'tpu'"),
        ("--max-total-tokens", "8", "--max-total-tokens is 8; it must be at least --page-size, 16"),
        ("--run-dir", "/nowhere", "--run-dir /nowhere: no such folder"),
        ("--unknown", "1", "--unknown"),
    ],
)
def test_a_bad_flag_is_named_with_its_value(flags, flag, value, message):
    """
    And with what is allowed, where that is a range.
    """
    with pytest.raises(InvalidConfig, match=message):
        parse(arguments(flags | {flag: value}))


def make_card(epoch):
    return Card(0, epoch, "127.0.0.1", 80, 1, "m", 2048, 16, 4096, "/t")


def test_a_card_is_removed_by_the_incarnation_that_wrote_it(tmp_path):
    """
    One that stops late does not take away its successor's card.
    """
    make_card(epoch=1).write(tmp_path)
    make_card(epoch=2).write(tmp_path)

    make_card(epoch=1).remove(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["group-0.json"]
    make_card(epoch=2).remove(tmp_path)
    assert list(tmp_path.iterdir()) == []
