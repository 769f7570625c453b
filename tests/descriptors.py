"""A process that may open no more files."""

import resource
from contextlib import contextmanager


@contextmanager
def no_descriptors():
    """What is open stays so; nothing else can be opened meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
