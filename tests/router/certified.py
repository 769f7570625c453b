"""Servers with certificates of an authority that only the tests have."""

import ssl
from contextlib import asynccontextmanager

import trustme

from tests.router.groups import FakeGroup


class Authority:
    """Issues certificates; its own is in a file."""

    def __init__(self, folder):
        self._authority = trustme.CA()
        self.file = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.file)
        self.names_asked_for = []
        """SNI of each connection."""

    def replace(self, another):
        """From now on the file is that of another authority."""
        another._authority.cert_pem.write_to_path(self.file)

    def context(self, *names):
        """Of a server that has these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1", "h2"])
        context.sni_callback = lambda _, name, __: self.names_asked_for.append(name)
        self._authority.issue_cert(*names).configure_cert(context)
        return context

    @asynccontextmanager
    async def engine(self, respond=None, names=("localhost", "127.0.0.1")):
        async with FakeGroup.listening(respond, tls=self.context(*names)) as engine:
            yield engine
