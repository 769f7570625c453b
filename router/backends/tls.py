"""
TLS to backends: how a server's certificate is verified, and the contexts that do it.

What a backend's `tls` says:

    (empty)          no TLS
    system           by the certificate authorities that this machine trusts
    unverified       not at all: whoever answers there may be anybody
    /path/of/a.pem   by the authorities in that file, and no others

A word or an absolute path, so that it fits a row of the group table and compares as it is.
"""

from __future__ import annotations

import os
import ssl
from typing import NamedTuple

SYSTEM = "system"
UNVERIFIED = "unverified"
_MAX_PATH_BYTES = 200  # it stands in a row of the group table, which has 2,304
_PROTOCOLS = ["http/1.1"]


def tls_of(scheme: str, ca_file: str | None, skip_verify: str | None) -> str:
    """What the settings `ca-file` and `insecure-skip-verify` say.  Raises ValueError."""
    for name, value in (("ca-file", ca_file), ("insecure-skip-verify", skip_verify)):
        if value is not None and scheme != "https":
            raise ValueError(f"{name}={value}: is for https://, and this is {scheme}://")
    if skip_verify is not None:
        if skip_verify != "true":
            raise ValueError(f"insecure-skip-verify={skip_verify}: allowed is true")
        if ca_file is not None:
            raise ValueError(f"ca-file={ca_file}: verifies nothing with insecure-skip-verify=true")
        return UNVERIFIED
    if ca_file is not None:
        _check(ca_file)
        return ca_file
    return SYSTEM if scheme == "https" else ""


def _check(ca_file: str) -> None:
    if not os.path.isabs(ca_file) or len(os.fsencode(ca_file)) > _MAX_PATH_BYTES:
        raise ValueError(
            f"ca-file={ca_file}: allowed is an absolute path of at most {_MAX_PATH_BYTES} bytes"
        )
    if os.path.exists(ca_file) and not os.path.isfile(ca_file):  # reading a FIFO never ends
        raise ValueError(f"ca-file={ca_file}: no certificates can be read: it is no regular file")
    try:
        ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"ca-file={ca_file}: no certificates can be read: {error}") from None


class _File(NamedTuple):
    """What tells one content of a file from the next."""

    mtime_ns: int
    size: int
    inode: int

    @classmethod
    def at(cls, path: str) -> _File:
        """Raises OSError."""
        told = os.stat(path)
        return cls(told.st_mtime_ns, told.st_size, told.st_ino)


class TlsContexts:
    """Makes a context once for all connections that verify alike; a new one for a new file."""

    def __init__(self) -> None:
        self._contexts: dict[str, tuple[_File | None, ssl.SSLContext]] = {}

    def of(self, tls: str) -> ssl.SSLContext:
        """For connections to a backend of that `tls`.  Raises OSError if its file is no good."""
        file = _File.at(tls) if os.path.isabs(tls) else None
        known = self._contexts.get(tls)
        if known is not None and known[0] == file:
            return known[1]
        context = _context(tls)
        self._contexts[tls] = (file, context)
        return context


def _context(tls: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls if os.path.isabs(tls) else None)
    context.set_alpn_protocols(_PROTOCOLS)
    if tls == UNVERIFIED:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
