"""A relay of TCP connections before a server, which can break off and come back: to a page, a server
that goes and is started again on the same port.
"""

import contextlib
import socket
import threading


class Relay:
    """Listens at `address` while it is open.

    Args:
        port: of the server, on loopback.
    """

    def __init__(self, port: int) -> None:
        self.port, self.sockets = port, list[socket.socket]()
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
        self._accept()

    def _accept(self) -> None:
        threading.Thread(target=self._run, args=(self.listening,), daemon=True).start()

    def _run(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = listening.accept()
                server = socket.create_connection(("127.0.0.1", self.port))
                self.sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=_copy, args=pair, daemon=True).start()

    def close(self) -> None:
        """Breaks every connection off, and refuses others."""
        # A thread that waits in accept keeps the port open until it is woken.
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.sockets.clear()

    def reopen(self) -> None:
        """Listens at the same address again."""
        self.listening = socket.create_server(("127.0.0.1", int(self.address.rpartition(":")[2])))
        self._accept()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
