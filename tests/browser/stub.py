"""An instance as the page sees it: the page itself, and whatever the test has it tell."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from router.control_plane.page.page import page_and_policy


class Stub:
    """A context manager; `told` maps a path to a status and an object."""

    def __init__(self, told, port=0):
        self.told = told
        self.asked = []
        """Path and query, and the key that came with it."""
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(stub):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            key = self.headers.get("Authorization")
            stub.asked.append((self.path, key))
            path = self.path.partition("?")[0]
            if path == "/":
                page, policy = page_and_policy()
                return self._answer(200, page, "text/html", policy)
            status, told = stub.told.get(path, (404, {"error": {"message": f"no {path}"}}))
            return self._answer(status, json.dumps(told).encode(), "application/json", "")

        def _answer(self, status, body, kind, policy):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            if policy:
                self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler
