import errno

import pytest

from router.shortage import is_shortage


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EMFILE, "too many files"), True),
        (OSError(errno.ENFILE, "too many files of all"), True),
        (caused(ValueError("not connected"), OSError(errno.EMFILE, "too many files")), True),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), False),
        (caused(ValueError("x"), TimeoutError()), False),
    ],
)
def test_a_shortage_here_is_no_fault_there(error, expected):
    """
    However deep it lies.
    """
    assert is_shortage(error) is expected
