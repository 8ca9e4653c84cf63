"""`/metrics` over HTTP on threads of its own: a few at once, and none for a client that says nothing.

prometheus_client's own server gives each connection a thread and a descriptor for as long as it likes.
"""

import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

MAX_AT_ONCE = 16
"""Further connections are closed at once."""
TIMEOUT_S = 5.0
"""How long a client may take to say what it wants, and to read the answer."""


class Handler(WSGIRequestHandler):
    timeout = TIMEOUT_S

    def log_message(self, format: str, *arguments: Any) -> None:
        """Scrapes are no news."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves from `start` to `stop`."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, registry: CollectorRegistry) -> None:
        self._places = threading.Semaphore(MAX_AT_ONCE)
        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self.setup_environ()
        self.set_app(make_wsgi_app(registry))

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._places.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone, or was too slow."""
