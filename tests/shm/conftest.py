import os
from itertools import count

import pytest

from shm.names import Kind, segment_name
from shm.segment import unlink

_numbers = count()


@pytest.fixture
def instance():
    """A name that no other test uses; whatever was made under it is gone afterwards."""
    name = f"test.{os.getpid()}.{next(_numbers)}"
    yield name
    for kind in Kind:
        unlink(segment_name(name, kind))
