"""A way to the server that can be cut: a TCP relay in threads, with TLS if wanted."""

import contextlib
import os
import selectors
import socket
import threading
from urllib.parse import urlsplit


class Cutter:
    """Relays connections to the server, and cuts them when told to."""

    def __init__(self, tls=None):
        self._tls = tls
        parts = urlsplit(os.environ["NULLSPACE_API_URL"])
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._pairs = {}
        self._stopped = False
        self.is_open = True
        self.count = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while not self._stopped:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self.is_open:
                client.close()
                continue
            try:
                server = socket.create_connection(self._server)
            except OSError:
                client.close()
                continue
            if self._tls is not None:
                try:
                    client = self._tls.wrap_socket(client, server_side=True)
                except OSError:
                    server.close()
                    continue
            with self._lock:
                self._pairs[client] = server
            threading.Thread(target=self._relay, args=(client, server), daemon=True).start()

    def _relay(self, client, server):
        others = {client: server, server: client}
        with contextlib.suppress(OSError, ValueError), selectors.DefaultSelector() as selector:
            for one in others:
                selector.register(one, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    one, more = key.fileobj, True
                    while more:
                        data = one.recv(1 << 16)
                        if not data:
                            raise OSError
                        others[one].sendall(data)
                        # What TLS has decrypted already wakes no selector.
                        more = self._tls is not None and one is client and one.pending()
        with self._lock:
            self._pairs.pop(client, None)
        for one in others:
            one.close()

    def cut(self):
        """Ends all connections, as a network does: without a word."""
        with self._lock:
            pairs = list(self._pairs.items())
        for pair in pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        self.count += bool(pairs)

    @contextlib.contextmanager
    def every(self, seconds, times=None):
        """Cuts again and again while the block runs."""
        done = threading.Event()

        def run():
            left = times
            while not done.wait(seconds) and left != 0:
                self.cut()
                left = left and left - 1

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def close(self):
        """Ends it."""
        self._stopped = True
        self._listener.close()
        self.cut()
