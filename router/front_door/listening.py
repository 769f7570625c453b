"""The sockets that front doors listen on: the public address, alone or shared."""

from __future__ import annotations

import socket


def listening_socket(host: str, port: int, *, shared: bool) -> socket.socket:
    """
    A socket bound to the public address.

    shared: several front doors bind the same port (SO_REUSEPORT).  Raises
    OSError if the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    bound.setblocking(False)
    return bound
