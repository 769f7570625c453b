from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.model.detokenizer import Detokenizer


class ByteTokens:
    """A codec whose token i stands for the i-th of some byte strings."""

    def __init__(self, pieces):
        self.pieces = pieces

    def text_bytes(self, token_id):
        return self.pieces[token_id]


def stream(pieces, stop=()):
    """Return what each push returned, what finish returned, and the detokenizer."""
    detokenizer = Detokenizer(ByteTokens(pieces), stop)
    pushed = [detokenizer.push(token_id) for token_id in range(len(pieces))]
    return pushed, detokenizer.finish(), detokenizer


def cut_before_first_stop(text, stop):
    """The contract, the slow way: look at ever longer beginnings of the text."""
    for end in range(len(text) + 1):
        hits = [s for s in stop if text[:end].endswith(s)]
        if hits:
            return text[: end - max(map(len, hits))], True
    return text, False


def cut_at(data, cuts):
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(bounds)]


few_letters = st.text("aab\U0001f600\u00e9", max_size=40)
stops = st.lists(st.text("ab\U0001f600\u00e9", min_size=1, max_size=4), max_size=3).map(tuple)
cuts = st.lists(st.integers(0, 200), max_size=30)


@settings(max_examples=500)
@given(few_letters, stops, cuts)
def test_the_text_does_not_depend_on_the_tokens(text, stop, cuts):
    """
    However the bytes are cut into tokens, what is emitted is the text, or its
    beginning before the stop string that is complete first.
    """
    pushed, rest, detokenizer = stream(cut_at(text.encode(), cuts), stop)

    expected = cut_before_first_stop(text, stop)
    assert ("".join(pushed) + rest, detokenizer.stopped) == expected


@settings(max_examples=300)
@given(st.binary(max_size=40), cuts)
def test_bytes_that_are_no_text_come_out_as_a_full_decode_has_them(data, cuts):
    """
    Broken characters become U+FFFD, as many as decoding all bytes at once gives.
    """
    pushed, rest, _ = stream(cut_at(data, cuts))

    assert "".join(pushed) + rest == data.decode("utf-8", errors="replace")


@settings(max_examples=300)
@given(few_letters, stops, cuts)
def test_no_more_is_held_back_than_may_become_a_stop_string(text, stop, cuts):
    """
    After each token, what is withheld is less than a character, or begins a stop string.
    """
    pieces = cut_at(text.encode(), cuts)
    detokenizer, emitted, seen = Detokenizer(ByteTokens(pieces), stop), "", b""
    for token_id, piece in enumerate(pieces):
        emitted += detokenizer.push(token_id)
        seen += piece
        if detokenizer.stopped:
            return
        held = seen.decode("utf-8", errors="ignore").removeprefix(emitted)
        assert held == "" or any(s.startswith(held) for s in stop)


def test_an_unfinished_character_waits_and_is_flushed_as_a_replacement():
    """
    Three of an emoji's four bytes are no text until the output ends.
    """
    pushed, rest, _ = stream([b"hi ", b"\xf0\x9f", b"\x98"])

    assert pushed == ["hi ", "", ""]
    assert rest == "\ufffd"


def test_a_false_start_of_a_stop_string_is_released():
    """
    Held text comes out as soon as it can no longer become the stop string.
    """
    pushed, rest, detokenizer = stream([b"a\nUs", b"ual", b"ly"], ("\nUser:",))

    assert (pushed, rest) == (["a", "\nUsual", "ly"], "")
    assert not detokenizer.stopped


def test_an_unfinished_stop_string_is_text_when_the_output_ends():
    """
    What was only the beginning of a stop string belongs to the output.
    """
    pushed, rest, detokenizer = stream([b"end\nUs"], ("\nUser:",))

    assert (pushed, rest, detokenizer.stopped) == (["end"], "\nUs", False)


def test_after_a_stop_string_nothing_more_comes():
    """
    The text is cut before the stop string, and later tokens add nothing.
    """
    pushed, rest, detokenizer = stream([b"one ST", b"OP two", b" three"], ("STOP", "three"))

    assert (pushed, rest) == (["one ", "", ""], "")
    assert detokenizer.stopped_by == "STOP"


@settings(max_examples=100, deadline=None)
@given(token_ids=st.lists(st.integers(0, 511), max_size=60))
def test_real_tokens_stream_as_the_codec_decodes_them(codec, token_ids):
    """
    For a real vocabulary, special tokens and half characters included.
    """
    detokenizer = Detokenizer(codec)

    text = "".join(map(detokenizer.push, token_ids)) + detokenizer.finish()

    assert text == codec.decode(token_ids)
