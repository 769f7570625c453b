import re

import pytest

from balancer.simulation.traffic import TracedRequest
from router.errors import TraceError
from router.simulate.trace_file import read_trace

MOONCAKE = '{"timestamp": 3000, "input_length": 1500, "output_length": 7, "hash_ids": [4, 9, 11]}\n'
OURS = (
    '{"arrival_s": 12.5, "prompt_tokens": 40, "output_tokens": 7, '
    '"page_size": 16, "page_digests": [18446744073709551615, 2]}\n'
)
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n"
)


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "some.trace"
        path.write_text(text)
        return read_trace(path)

    return read


def test_mooncakes_milliseconds_and_full_blocks_of_512_tokens(read):
    """
    The third block is not full, so it names no page.
    """
    traffic = read(MOONCAKE)

    assert traffic.requests == [TracedRequest(3.0, 1500, 7, (4, 9))]
    assert (traffic.name, traffic.page_size) == ("some", 512)


def test_our_own_log(read):
    """
    Page size and digests are the groups'; a line may have none.
    """
    traffic = read(OURS + '{"arrival_s": 13, "prompt_tokens": 4, "output_tokens": 1}\n')

    assert traffic.page_size == 16
    assert traffic.requests == [
        TracedRequest(12.5, 40, 7, (18446744073709551615, 2)),
        TracedRequest(13.0, 4, 1),
    ]


def test_azures_times_of_seven_digits(read):
    """
    With and without a time zone: none is UTC.
    """
    traffic = read(AZURE + "2023-11-16 19:15:46.680590+01:00,5,6")

    assert [r[1:3] for r in traffic.requests] == [(374, 44), (5, 6)]
    assert traffic.span_s == pytest.approx(0, abs=1e-5)


def test_burstgpts_seconds(read):
    """
    Columns by name, so others do not matter.
    """
    assert read(BURST).requests == [TracedRequest(5.0, 472, 18)]


def test_requests_that_failed_are_left_out_and_the_others_are_put_in_order(read):
    """
    Zero tokens in or out are a failure where the trace was made.
    """
    traffic = read(BURST + "9,A,0,0,0,x\n8,A,7,0,7,x\n3,A,1,2,3,x\n")

    assert [r.arrival_s for r in traffic.requests] == [3.0, 5.0]


def test_empty_lines_and_a_byte_order_mark_do_no_harm(read):
    """
    As editors and spreadsheets leave them.
    """
    assert len(read("\ufeff" + MOONCAKE + "\n" + MOONCAKE).requests) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no request"),
        (BURST.splitlines()[0], "there is no request"),
        ("a,b\n1,2\n", "line 2: there are a, b; allowed are"),
        ('{"prompt": "x"}\n', "line 1: there are prompt; allowed are"),
        (MOONCAKE + "{oops\n", "line 2: no JSON"),
        (MOONCAKE + "\n[1]\n", "line 3: no JSON object"),
        (MOONCAKE + '{"timestamp": 1}\n', "line 2: 'input_length' is missing"),
        (MOONCAKE.replace("1500", "-1"), "line 1: input_length is -1: allowed are integers"),
        (MOONCAKE.replace("1500", "1.5"), "line 1: input_length is 1.5"),
        (MOONCAKE.replace("1500", "true"), "line 1: input_length is True"),
        (MOONCAKE.replace("3000", '"soon"'), "line 1: could not convert"),
        (MOONCAKE.replace("3000", "NaN"), "line 1: no JSON"),
        (MOONCAKE.replace("[4, 9, 11]", "[4, null]"), "line 1: hash_ids is no list of integers"),
        (OURS.replace("40", "30"), "line 1: 2 pages of 16 tokens do not fit"),
        (OURS + OURS.replace("16,", "8,"), "line 2: page_size 8, in earlier lines 16"),
        (AZURE + "yesterday,1,2\n", "line 3: Invalid isoformat string: 'yesterday'"),
        (AZURE + "2023-11-16 18:15:46,1\n", "line 3: "),
        (BURST + "7,A,many,2,3,x\n", "line 3: invalid literal"),
        (BURST + "inf,A,1,2,3,x\n", "line 3: 'inf' is no time"),
    ],
)
def test_what_cannot_be_read_is_told_with_file_and_line(read, text, told):
    """
    One line, no traceback.
    """
    with pytest.raises(TraceError, match=rf"some\.trace(, |: ).*{re.escape(told)}"):
        read(text)


def test_torn_lines_of_our_own_log_are_left_out_and_counted(tmp_path):
    """
    Cut anywhere, before a whole line of another front door, first in the file or last.
    """
    path, told = tmp_path / "torn.jsonl", []
    for end in range(1, len(OURS) - 2):
        torn = OURS[:end]
        path.write_text(torn + "\n" + OURS + torn + OURS + torn)

        assert len(read_trace(path, told.append).requests) == 2
        assert told.pop() == f"{path}: torn lines left out: 3"


def test_a_whole_log_leaves_nothing_out(tmp_path):
    """
    So there is nothing to tell, also if its last line was not ended.
    """
    path, told = tmp_path / "whole.jsonl", []
    path.write_text(OURS + OURS.rstrip())

    assert len(read_trace(path, told.append).requests) == 2
    assert told == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (OURS + "nonsense\n" + OURS, "line 2: no JSON"),
        (OURS[:20] + "\n" + MOONCAKE, "line 1: no JSON"),
        (MOONCAKE + OURS[:1] + "\n" + MOONCAKE, "line 2: no JSON"),
        (OURS[:20], "line 1: no JSON"),
        (OURS + OURS.replace(": 40", ": "), "line 2: no JSON"),
        (OURS + OURS[:20] + "\n" + OURS.replace(": 40", ": -1"), "line 3: prompt_tokens is -1"),
    ],
)
def test_what_is_no_torn_line_of_our_own_log_is_still_refused(read, text, told):
    """
    A line of something else, one of another format, a log with no whole line, a wrong figure.
    """
    with pytest.raises(TraceError, match=rf"some\.trace, {re.escape(told)}"):
        read(text)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    """
    And why it cannot be read.
    """
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    for name in ("missing", "binary"):
        with pytest.raises(TraceError, match=f"{name}: cannot be read"):
            read_trace(tmp_path / name)
