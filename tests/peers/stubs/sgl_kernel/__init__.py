"""
What SGLang's scheduler and a Llama on a CPU ask of sgl_kernel, in plain torch.

Not one of its kernels is here.  A name that is imported and not called may be any; one that is
called says which it is.
"""

import torch

_library = torch.library.Library("sgl_kernel", "DEF")
_library.define("init_cpu_threads_env(str cpu_ids) -> str")


def _init_cpu_threads_env(cpu_ids):
    return f"threads stay as OMP_NUM_THREADS says, not bound to {cpu_ids}"


torch.library.impl(_library, "init_cpu_threads_env", "CompositeExplicitAutograd")(
    _init_cpu_threads_env
)


def assign_req_to_token_pool_cpu(rows, table, starts, ends, slots, _row_length):
    """table[rows[i], starts[i]:ends[i]] takes the next of the slots."""
    at = 0
    for row, start, end in zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True):
        table[row, start:end] = slots[at : at + end - start].to(table.dtype)
        at += end - start


def __getattr__(name):
    if name.startswith("__") or not name.endswith("_cpu"):
        raise AttributeError(name)

    def refuse(*_, **__):
        raise NotImplementedError(f"sgl_kernel.{name} has no stand-in")

    return refuse
