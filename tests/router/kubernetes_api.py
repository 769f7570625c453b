"""A stand-in for a Kubernetes API server: EndpointSlices, listed and watched over real sockets."""

from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import orjson

from router.backends.kubernetes.api import ApiServer
from tests.router.groups import FakeGroup

PATH = "/apis/discovery.k8s.io/v1/namespaces/serving/endpointslices"
SELECTOR = "kubernetes.io/service-name=engines"


def endpoint(address, **conditions):
    return {"addresses": [address], "conditions": conditions}


def ready(*addresses):
    return [endpoint(address, ready=True) for address in addresses]


class FakeApi:
    """
    Keeps objects and their history, as etcd does.

    A watch begins after the version that it names, and gets what came since; versions
    before `compact()` are gone.
    """

    def __init__(self, server, tls):
        self._server = server
        self._scheme = "https" if tls else "http"
        self._objects = {}
        self._history = []
        self._version = self._oldest = 100
        self._watches = []
        self.token = None
        """If not None, what has to be brought."""
        self.refusal = None
        """Status and message of every answer, if not None."""
        self.watch_refusal = None
        """The same, of watches alone."""
        self.is_gone_told_as_event = True
        self.lists = 0
        self.watched_from = []
        """Version of each watch."""

    @classmethod
    @asynccontextmanager
    async def listening(cls, tls=None):
        async with FakeGroup.listening(tls=tls) as server:
            api = cls(server, tls)
            server.respond = api._respond
            yield api

    def at(self, token_file=None, ca_file=None):
        """What a source is told of it."""
        return ApiServer(f"{self._scheme}://localhost:{self._server.port}", token_file, ca_file)

    @property
    def num_watches(self):
        return len(self._watches)

    # What happens in the cluster

    def apply(self, name, endpoints, ports=({"name": "http", "port": 8000},), family="IPv4"):
        kind = "MODIFIED" if name in self._objects else "ADDED"
        self._objects[name] = {
            "addressType": family, "endpoints": endpoints, "ports": list(ports)
        }  # fmt: skip
        self._happen(kind, name, self._objects[name])

    def delete(self, name):
        self._happen("DELETED", name, self._objects.pop(name))

    def bookmark(self):
        """Others' objects have changed: watchers are told how far they are."""
        self._version += 10
        self._tell({"type": "BOOKMARK", "object": {"metadata": self._metadata()}})

    def compact(self):
        """What is over is forgotten."""
        self._version += 10
        self._oldest, self._history = self._version, []

    # What happens to connections

    def send(self, raw):
        """Whatever that is, to all watchers."""
        for watch in self._watches:
            watch.write(b"%x\r\n%s\r\n" % (len(raw), raw))

    def end_watches(self):
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.write(b"0\r\n\r\n")

    def break_watches(self):
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.abort()

    def _happen(self, kind, name, what):
        self._version += 1
        event = {"type": kind, "object": what | {"metadata": self._metadata(name)}}
        self._history.append((self._version, event))
        self._tell(event)

    def _metadata(self, name=None):
        metadata = {"resourceVersion": str(self._version)}
        return metadata if name is None else metadata | {"name": name}

    def _tell(self, event):
        line = orjson.dumps(event) + b"\n"
        self.send(line[:20])  # an event may come in pieces
        self.send(line[20:])

    def _respond(self, received):
        target = urlsplit(received.target.decode())
        query = {name: values[0] for name, values in parse_qs(target.query).items()}
        brought = received.header(b"authorization")
        is_watch = query.get("watch") == "true"
        refusal = self.refusal or (self.watch_refusal if is_watch else None)
        if refusal is not None:
            _refuse(received, *refusal)
        elif self.token is not None and brought != [b"Bearer " + self.token.encode()]:
            _refuse(received, 401, "Unauthorized")
        elif target.path != PATH or query.get("labelSelector") != SELECTOR:
            _refuse(received, 404, f"the server could not find {received.target.decode()}")
        elif is_watch:
            self._watch(received, query)
        else:
            self._list(received)

    def _list(self, received):
        self.lists += 1
        items = [what | {"metadata": self._metadata(name)} for name, what in self._objects.items()]
        metadata = {"resourceVersion": str(self._version)}
        received.answer(orjson.dumps({"metadata": metadata, "items": items or None}))

    def _watch(self, received, query):
        since = int(query["resourceVersion"])
        assert int(query["timeoutSeconds"]) > 0
        assert query["allowWatchBookmarks"] == "true"
        self.watched_from.append(since)
        is_gone = since < self._oldest
        if is_gone and not self.is_gone_told_as_event:
            _refuse(received, 410, "too old resource version")
            return
        received.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        self._watches.append(received)
        if is_gone:
            self._tell({"type": "ERROR", "object": {"code": 410, "message": "too old"}})
            self.end_watches()
        for version, event in self._history:
            if version > since:
                self._tell(event)


def _refuse(received, status, message):
    body = orjson.dumps({"kind": "Status", "code": status, "message": message})
    received.answer(body, status=b"%d Refused" % status)
