"""A stand-in for openpi's policy server: its public protocol, word by word, with scripted answers.

As its `websocket_policy_server.py`: metadata first; then for each packed observation a packed map
with `actions` and `server_timing`; a failing policy's traceback as text, and the connection closed
with 1011; `/healthz`. `python policy_server.py PORT [BEHAVIOUR ...]` runs it as a process.
"""

import http
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgpack
import numpy as np
import websockets
from websockets.sync.server import Server, ServerConnection, serve


def pack(message: Any) -> bytes:
    """As openpi's `msgpack_numpy`."""

    def array(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return {
                b"__ndarray__": True,
                b"data": value.tobytes(),
                b"dtype": value.dtype.str,
                b"shape": value.shape,
            }
        if isinstance(value, np.generic):
            return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
        return value

    packed: bytes = msgpack.packb(message, default=array)
    return packed


def unpack(data: bytes) -> Any:
    """Its inverse."""

    def array(value: Any) -> Any:
        if b"__ndarray__" in value:
            return np.ndarray(
                buffer=value[b"data"], dtype=np.dtype(value[b"dtype"]), shape=value[b"shape"]
            )
        if b"__npgeneric__" in value:
            return np.dtype(value[b"dtype"]).type(value[b"data"])
        return value

    return msgpack.unpackb(data, object_hook=array)


def swing(question: dict[str, Any], length: int = 10) -> dict[str, Any]:
    """As LIBERO's policies answer: shares of 5 cm and 0.5 rad; to and fro before the camera."""
    x, y = question["observation/state"][:2]
    actions = np.zeros((length, 7), np.float64)
    swing.side = -np.sign(y) if abs(y) > 0.1 else getattr(swing, "side", 1.0)  # type: ignore
    actions[:, 0], actions[:, 1] = 0.2 if x < 0.02 else 0.0, 0.2 * swing.side  # type: ignore
    actions[:, 6] = -1.0
    return {"actions": actions, "state": question["observation/state"]}


class StandInServer:
    """Serves `policy` on 127.0.0.1 in a thread; a context manager.

    policy: question → answer; metadata: said to every client; raw: bytes or text in place of the
    answers; greeting: in place of the metadata; questions: all that were asked.
    """

    def __init__(
        self,
        policy: Callable[[dict[str, Any]], Any] = swing,
        port: int = 0,
        metadata: dict[str, Any] | None = None,
        raw: bytes | str | None = None,
        greeting: bytes | None = None,
    ) -> None:
        self.policy, self.metadata, self.raw, self.greeting = policy, metadata or {}, raw, greeting
        self.questions: list[dict[str, Any]] = []
        self._clients: set[ServerConnection] = set()
        self._server: Server = serve(
            self._handle,
            "127.0.0.1",
            port,
            compression=None,
            max_size=None,
            process_request=self._health,
        )
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The policy's name for this package."""
        return f"openpi:ws://127.0.0.1:{self.port}"

    def _health(self, connection: ServerConnection, request: Any) -> Any:
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        return None

    def _handle(self, connection: ServerConnection) -> None:
        self._clients.add(connection)
        connection.send(self.greeting if self.greeting is not None else pack(self.metadata))
        while True:
            try:
                question = unpack(connection.recv())  # type: ignore[arg-type]
                self.questions.append(question)
                started = time.monotonic()
                answer = self.policy(question)
                if self.raw is not None:
                    connection.send(self.raw)
                    continue
                took = {"infer_ms": (time.monotonic() - started) * 1000}
                connection.send(pack(answer | {"server_timing": took}))
            except websockets.ConnectionClosed:
                self._clients.discard(connection)
                return
            except Exception:
                connection.send(traceback.format_exc())
                connection.close(
                    1011, "Internal server error. Traceback included in previous frame."
                )
                return

    def kill(self) -> None:
        """As if the process had died: every connection ends without a goodbye."""
        self._server.shutdown()
        for client in list(self._clients):
            client.socket.close()
        self._thread.join(2.0)

    def __enter__(self) -> "StandInServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


if __name__ == "__main__":
    StandInServer(port=int(sys.argv[1]))
    threading.Event().wait()
