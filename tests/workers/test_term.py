import fcntl
import json
import threading
from dataclasses import asdict, replace

import pytest

from workers.ranks.term import Term, wait_for_lock

LIMIT_S = 60.0
SEAL, OTHER_SEAL = "0f" * 16, "f0" * 16
TERM = Term(3, dp_rank=1, epoch=77, host="127.0.0.1", port=4000, seal=SEAL)


def test_the_others_read_what_the_publisher_wrote(tmp_path):
    """
    Each term replaces the last as a whole.
    """
    assert Term.read(tmp_path) is None
    for term in (TERM, Term(4, 2, 78, "127.0.0.1", 4001, OTHER_SEAL)):
        term.write(tmp_path)
        assert Term.read(tmp_path) == term
    (path,) = tmp_path.iterdir()
    assert (path.name, path.stat().st_mode & 0o777) == ("publisher.json", 0o600)


NO_SEAL = json.dumps(asdict(TERM) | {"seal": "0f"})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"term": 1, "other": 2}', NO_SEAL])
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
    contenders = threading.Semaphore(0)

    def contend(number):
        contenders.release()
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
    for _ in threads:
        assert contenders.acquire(timeout=LIMIT_S)
    with (tmp_path / "publisher.lock").open("ab") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert ended == [], "nobody gets it while it is held"
    holders.remove("first")
    first.close()
    for thread in threads:
        thread.join(LIMIT_S)

    assert sorted(ended) == [0, 1, 2]
    assert most == [1, 1, 1]


@pytest.mark.parametrize("other", [{"epoch": 78}, {"term": 4}, {"seal": OTHER_SEAL}])
def test_the_names_of_terms_differ(other):
    """
    A port that another instance's publisher took over leads to nobody.
    """
    assert TERM.name != replace(TERM, **other).name


def test_a_terms_name_does_not_tell_its_seal():
    """
    Whoever connects to the store may read the names.
    """
    assert SEAL not in TERM.name
