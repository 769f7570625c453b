import threading

import pytest

from workers.ranks.term import Term, wait_for_lock

LIMIT_S = 60.0
TERM = Term(3, dp_rank=1, epoch=77, host="127.0.0.1", port=4000)


def test_the_others_read_what_the_publisher_wrote(tmp_path):
    """
    Each term replaces the last as a whole.
    """
    assert Term.read(tmp_path) is None
    for term in (TERM, Term(4, 2, 78, "127.0.0.1", 4001)):
        term.write(tmp_path)
        assert Term.read(tmp_path) == term
    assert [path.name for path in tmp_path.iterdir()] == ["publisher.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"term": 1, "other": 2}'])
def test_a_damaged_term_counts_as_none(tmp_path, text):
    """
    Leaders wait for the next publisher, which writes another.
    """
    (tmp_path / "publisher.json").write_text(text)

    assert Term.read(tmp_path) is None


def test_the_lock_goes_to_one_at_a_time(tmp_path):
    """
    Three wait for it; each has it alone until it lets go, and all get it.
    """
    holders, most, ended = [], [], []

    def contend(number):
        with wait_for_lock(tmp_path):
            holders.append(number)
            most.append(len(holders))
            holders.remove(number)
        ended.append(number)

    first = wait_for_lock(tmp_path)
    holders.append("first")
    threads = [threading.Thread(target=contend, args=(i,), daemon=True) for i in range(3)]
    for thread in threads:
        thread.start()
    threads[0].join(0.05)
    assert ended == [], "nobody gets it while it is held"
    holders.remove("first")
    first.close()
    for thread in threads:
        thread.join(LIMIT_S)

    assert sorted(ended) == [0, 1, 2]
    assert most == [1, 1, 1]


def test_the_names_of_terms_differ_between_instances():
    """
    A port that another instance's publisher took over leads to nobody.
    """
    assert TERM.name != Term(3, 1, 78, TERM.host, TERM.port).name
    assert TERM.name != Term(4, 1, 77, TERM.host, TERM.port).name
