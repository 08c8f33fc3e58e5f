"""The other end: any function from a question to an answer, served by openpi's protocol.

numpy, msgpack and websockets are all that it needs, so that it also runs beside libraries whose
versions exclude this package's.
"""

import time
import traceback
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from safedojo_ros.core.errors import PolicyUnavailable
from safedojo_ros.models.served.wire import pack, unpack

INTERNAL_ERROR = 1011
Infer = Callable[[dict[str, Any]], dict[str, Any]]


def policy_server(infer: Infer, host: str, port: int, metadata: dict[str, Any]) -> Server:
    """A server that listens already; `serve_forever` answers, one connection a thread.

    infer: question → {"actions": (N, A), ...}; what it raises goes to the client as a text, and
    ends its connection; metadata: the first thing that every client is told.
    """

    def handle(connection: ServerConnection) -> None:
        try:
            connection.send(pack(metadata))
            for message in connection:
                started = time.monotonic()
                try:
                    question = unpack(message if isinstance(message, bytes) else message.encode())
                    if not isinstance(question, dict):
                        raise PolicyUnavailable(f"a {type(question).__name__}, expected a map")
                    answer = pack(_timed(infer, question, started))
                except Exception:
                    connection.send(traceback.format_exc())
                    connection.close(INTERNAL_ERROR, "the text before says why")
                    return
                connection.send(answer)
        except ConnectionClosed:
            return

    return serve(handle, host, port, compression=None, max_size=None, ping_interval=None)


def _timed(infer: Infer, question: dict[str, Any], started: float) -> dict[str, Any]:
    answer = infer(question)
    return answer | {"server_timing": {"infer_ms": (time.monotonic() - started) * 1e3}}
