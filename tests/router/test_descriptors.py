import resource

import pytest

from router.descriptors import raise_descriptor_limit


@pytest.fixture
def limits():
    """The limits of this process, as they are after the test again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_as_many_files_may_be_open_as_the_system_allows(limits):
    """
    The soft limit is raised to the hard one, which is left as it is.
    """
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))

    assert raise_descriptor_limit() == hard

    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
