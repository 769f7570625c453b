import json
import subprocess
import sys
from dataclasses import replace

import pytest

from workers.card import Card, State
from workers.config import MAX_HEARTBEAT_S, parse
from workers.errors import InvalidConfig


@pytest.fixture(name="flags")
def _flags(tmp_path):
    return {
        "--instance": "one", "--instance-epoch": "5", "--run-dir": str(tmp_path),
        "--dp-rank": "0", "--dp-size": "2", "--num-front-doors": "1",
        "--model": "m.gguf", "--served-model-name": "m",
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
    assert config.drain_timeout_s == 30.0
    assert config.watchdog_timeout_s == 300.0
    assert config.max_model_len is None


def test_the_instances_key_comes_from_the_environment_and_is_not_shown(flags):
    """
    Everybody may read a command line; an empty key is refused.
    """
    assert parse(arguments(flags), {}).instance_key is None
    config = parse(arguments(flags), {"LEVELHEAD_INSTANCE_KEY": "hush"})
    assert config.instance_key == "hush"
    assert "hush" not in repr(config)
    with pytest.raises(InvalidConfig, match="LEVELHEAD_INSTANCE_KEY is empty"):
        parse(arguments(flags), {"LEVELHEAD_INSTANCE_KEY": ""})


def test_a_link_outlasts_the_longest_heartbeat():
    """
    An idle group is no lost one.
    """
    from workers.ranks.links import REPORT_TIMEOUT

    assert REPORT_TIMEOUT.total_seconds() > MAX_HEARTBEAT_S


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--dp-rank", "2", r"--dp-rank is 2; with --dp-size 2 it must be in \[0, 1\]"),
        ("--threads", "0", "0 is less than 1"),
        ("--threads", "many", "invalid integer value: 'many'"),
        ("--heartbeat-s", "0", "not a positive number"),
        ("--heartbeat-s", "31", "--heartbeat-s is 31; it must be at most 30, because a link"),
        ("--watchdog-timeout", "0", "not a positive number"),
        ("--watchdog-timeout", "0.9", "is 0.9; it must be at least 4 times --heartbeat-s, 0.25"),
        ("--drain-timeout-s", "-1", "-1.0 is not a number of seconds, 0 or more"),
        ("--drain-timeout-s", "inf", "inf is not a number of seconds, 0 or more"),
        ("--rendezvous", "file:///x", "--rendezvous"),
        ("--device", "tpu", "'tpu'"),
        ("--schedule-policy", "lifo", "'lifo'.*lpm.*fcfs"),
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
    return Card(0, epoch, "127.0.0.1", 80, 1, 5, "m", 2048, 16, 4096, "/t")


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


def test_a_card_says_whether_its_leader_drains(tmp_path):
    """
    Ready at first; replaced as a whole when it is told to stop.
    """
    card = make_card(epoch=1)
    said = []
    for written in (card, replace(card, state=State.DRAINING)):
        written.write(tmp_path)
        said.append(json.loads((tmp_path / "group-0.json").read_text()))

    assert [card["state"] for card in said] == ["ready", "draining"]
    assert [card["start_ticks"] for card in said] == [5, 5]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"epoch": null}', "{}"])
def test_a_damaged_card_counts_as_none(tmp_path, text, caplog):
    """
    It keeps no rank from starting, and it is said.
    """
    (tmp_path / "group-0.json").write_text(text)

    assert Card.last_epoch(tmp_path, 0) == 0
    assert "group-0.json is damaged" in caplog.text


def test_flags_are_read_before_torch_is_imported():
    """
    It reads the environment as it is imported, and what is to stand there follows from flags.
    """
    told = "import sys, workers.__main__; print('torch' in sys.modules)"

    answer = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True)

    assert answer.stdout.strip() == "False", answer.stderr


@pytest.mark.slow
def test_a_rank_starts_without_the_compiler():
    """
    What imports torch._dynamo makes every rank a second slower to start.
    """
    told = "import sys, workers.parts, workers.leader; print('torch._dynamo' in sys.modules)"

    answer = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True)

    assert answer.stdout.strip() == "False", answer.stderr
