"""Which backends are wanted, and who says so."""

import orjson

from router.backends.backend import parse_backend
from router.control_plane.roster import FIXED, OPERATOR, Roster

A, B, C = (parse_backend(f"http://{host}:1") for host in "abc")


def roster(*fixed):
    return Roster(fixed, ["file", "dns"])


def sources(some):
    return {url.removeprefix("http://")[0]: each.sources for url, each in some.wanted.items()}


def test_everybody_s_backends_are_wanted_once():
    """
    As long as one names them.
    """
    some = roster(A)
    some.tell("dns", [A, B])
    some.tell("file", [B, B])
    some.add(C)
    assert sources(some) == {"a": (FIXED, "dns"), "b": ("file", "dns"), "c": (OPERATOR,)}

    some.tell("file", [])
    assert sources(some)["b"] == ("dns",)
    some.tell("dns", [])
    assert sources(some) == {"a": (FIXED,), "c": (OPERATOR,)}


def test_the_first_one_s_settings_count_and_that_is_said(caplog):
    """
    Once, as long as nobody says anything else.
    """
    some = roster()
    some.tell("dns", [parse_backend("http://a:1,weight=3")])
    for _ in range(2):
        some.tell("file", [A])

    assert some.wanted[A.url].backend == A
    assert caplog.text.count("those of file count") == 1


def test_what_an_operator_deletes_stays_deleted_until_its_source_stops_naming_it():
    """
    One that names it afresh is heard again; --backend never stops.
    """
    some = roster(A)
    some.tell("file", [B])
    some.delete(A.url)
    some.delete(B.url)
    some.tell("file", [B, C])
    assert sources(some) == {"c": ("file",)}

    some.tell("file", [C])
    some.tell("file", [B, C])
    assert sources(some) == {"b": ("file",), "c": ("file",)}


def test_what_was_deleted_may_be_added():
    """
    By an operator, and in other words.
    """
    some = roster(A)
    some.delete(A.url)
    again = parse_backend("http://a:1,kind=vllm,dp-size=2")
    some.add(again)

    assert some.wanted[A.url] == (again, (OPERATOR,))
    some.delete(A.url)
    assert some.wanted == {}


def test_another_source_does_not_bring_back_what_was_deleted_but_one_that_comes_later_does():
    """
    Deleted is what was named when it was deleted.
    """
    some = roster()
    some.tell("file", [A])
    some.delete(A.url)
    assert some.wanted == {}

    some.tell("dns", [A])
    assert sources(some) == {"a": ("dns",)}


def test_a_weight_that_is_set_counts_until_another_one_is_said():
    """
    Saying the same again changes nothing.
    """
    some = roster()
    some.tell("file", [A])
    some.reweigh(A.url, 4.0)
    some.tell("file", [A])
    assert some.wanted[A.url].backend.weight == 4.0

    some.tell("file", [parse_backend("http://a:1,weight=2")])
    assert some.wanted[A.url].backend.weight == 2.0


def test_a_weight_that_was_set_does_not_come_back_with_what_was_said_then():
    """
    Nor does whoever is at that URL later have it.
    """
    some = roster()
    for between in (["http://a:1,weight=2"], []):
        some.tell("file", [A])
        some.reweigh(A.url, 4.0)
        some.tell("file", [parse_backend(each) for each in between])
        some.tell("file", [A])
        assert some.wanted[A.url].backend.weight == 1.0

    some.reweigh(A.url, 4.0)
    some.delete(A.url)
    some.add(A)
    assert some.wanted[A.url].backend.weight == 1.0
    assert some.remembered()["weights"] == {}


def test_a_later_life_knows_what_was_known():
    """
    Through JSON.  What sources named stands until they tell again.
    """
    some = roster(A)
    some.tell("file", [parse_backend("http://b:1,kind=vllm,dp-size=2,weight=3")])
    some.tell("dns", [C])
    some.add(parse_backend("http://d:1"))
    some.delete(C.url)
    some.reweigh(B.url, 5.0)

    later = roster(A)
    later.recall(orjson.loads(orjson.dumps(some.remembered())))

    assert later.wanted == some.wanted
    later.tell("dns", [C])
    assert C.url not in later.wanted
