"""An engine's HTTP server that streams a token when the test says so."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class StandInEngine:
    """Any OpenAI server, at a port of its own; a context manager."""

    def __init__(self, tls=None, key=None):
        """With TLS of that context; `key` is wanted of whoever lists the models."""
        engine = self

        class Answering(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                if key is not None and self.headers["authorization"] != f"Bearer {key}":
                    self.send_error(401)
                    return
                self._whole({"object": "list", "data": [{"id": "m", "owned_by": "me"}]})

            def do_POST(self):
                fields = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if fields.get("stream"):
                    self._stream()
                else:
                    engine.num_answered += 1
                    self._whole({"choices": [{"text": "a"}]})

            def _whole(self, told):
                body = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self):
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                self._piece(b'data: {"choices": [{"text": "first"}]}\n\n')
                engine.finish.wait(60)
                self._piece(b'data: {"choices": [{"text": "last"}]}\n\ndata: [DONE]\n\n')
                self.wfile.write(b"0\r\n\r\n")

            def _piece(self, data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()

            def log_message(self, *_):
                pass

        self.finish = threading.Event()
        """Streams that are open end when it is set."""
        self.num_answered = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{port}"
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
            self.url = f"https://localhost:{port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.finish.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
