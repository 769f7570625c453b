"""
Over what ranks that compute together exchange the tensors of a pass.

    device    ranks and devices         collectives
    cpu       any                       gloo
    cuda      a device for each rank    nccl
    cuda      ranks share devices       gloo, staged through host memory

NCCL does not let two ranks use one device, so ranks that share some cannot use it: a pass
then takes as long as the copies to the host and back, which is for trying things out.
Rows and reports are exchanged over gloo, on the CPU, in any case.
"""

from __future__ import annotations

from typing import NamedTuple

from workers.errors import InvalidConfig


class Backend(NamedTuple):
    """name: torch's.  is_staged: tensors go through host memory.  why: for the log."""

    name: str
    is_staged: bool
    why: str


def choose_backend(device_type: str, num_ranks: int, num_devices: int, has_nccl: bool) -> Backend:
    """
    Return what this machine's ranks use, which all of them find alike.

    num_devices: of that type, which ranks are dealt out to in turn.  Raises InvalidConfig
    if there is none.
    """
    if device_type != "cuda":
        return Backend("gloo", False, f"ranks compute on {device_type}")
    if not num_devices:
        raise InvalidConfig("--device is cuda; there is no CUDA device")
    if num_devices < num_ranks:
        why = f"{num_ranks} ranks share {num_devices} CUDA devices, which NCCL does not allow"
        return Backend("gloo", True, why)
    if not has_nccl:
        return Backend("gloo", True, "this torch was built without NCCL")
    return Backend("nccl", False, f"each of {num_ranks} ranks has a CUDA device")
