"""
What emulated ranks report where computing a prompt costs nothing.

With c = 0 they stand for a decode pool: prompts come with their KV.  The engine still
has them computed, in no time, but a group of such a pool would not say so: it would
have them in its KV as soon as they run.
"""

from __future__ import annotations

from shm.load import LoadReport


def of_decode_pool(report: LoadReport) -> LoadReport:
    """
    The report, had the prompts come with their KV.

    What the step under way computes is in the KV then, and nothing is left to be computed.
    Prompts of those who wait are not in it.
    """
    return report._replace(
        kv_used_tokens=report.kv_used_tokens + report.computing_tokens,
        waiting_uncached_tokens=0,
        computing_tokens=0,
        step_prefill_tokens=0,
    )
