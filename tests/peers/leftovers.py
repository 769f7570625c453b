"""
What engines that were killed leave in /dev/shm: objects under their names, not ours, newer than
their start, that no process has mapped.
"""

from pathlib import Path

_PATTERNS = ("psm_*", "sem.mp-*", "sglang_loads_*")  # of vLLM's and SGLang's processes


def remove_leftovers(since_s: float) -> None:
    """Remove them; since_s is a file's time."""
    found = [path for pattern in _PATTERNS for path in Path("/dev/shm").glob(pattern)]
    mapped = _mapped() if found else ""
    for path in found:
        try:
            if path.stat().st_ctime >= since_s and path.name not in mapped:
                path.unlink()
        except FileNotFoundError:
            continue


def _mapped() -> str:
    """Everything that is mapped by anybody."""
    told = []
    for path in Path("/proc").glob("[0-9]*/maps"):
        try:
            told.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return "".join(told)
