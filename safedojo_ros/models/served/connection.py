"""A connection to a policy server: one question at a time, and none waits longer than it may."""

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from safedojo_ros.core.errors import PolicyUnavailable
from safedojo_ros.models.served.wire import pack, unpack

MAX_ANSWER = 2**24
"""Bytes of the longest answer that is read."""
PAUSE = 0.5
"""Seconds between two attempts to connect."""
CLOSING = 0.1
"""Seconds for which a server is given to say goodbye."""


class PolicyConnection:
    """Connects when it is asked, and anew after every fault: an answer has no number, so that one
    which came late would be taken for the next.

    metadata: what the server said of itself, {} before; connections: how many were made.
    """

    def __init__(
        self, url: str, timeout: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """timeout: seconds from a question to its answer; clock: seconds."""
        self.url, self.timeout = url, timeout
        self.metadata: dict[str, Any] = {}
        self.connections = 0
        self._clock = clock
        self._socket: ClientConnection | None = None
        self._pause_ends, self._fault = float("-inf"), ""

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The server's answer; raises `PolicyUnavailable` that says why there is none."""
        connection = self._connected()
        until = self._clock() + self.timeout
        try:
            connection.send(pack(question))
            return self._answer(connection, until)
        except PolicyUnavailable:
            self.close()
            raise
        except (OSError, ConnectionClosed) as error:
            self.close()
            raise PolicyUnavailable(self._sentence(error)) from None

    def close(self) -> None:
        """Leave the server; the next question connects again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> ClientConnection:
        if self._socket is not None:
            return self._socket
        if self._clock() < self._pause_ends:
            raise PolicyUnavailable(self._fault)
        until = self._clock() + self.timeout
        try:
            self._socket = connect(
                self.url,
                open_timeout=self.timeout,
                close_timeout=CLOSING,
                max_size=MAX_ANSWER,
                compression=None,
                ping_interval=None,
                proxy=None,
            )
            limit = struct.pack("ll", int(self.timeout), int(self.timeout % 1 * 1e6))
            self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            self.metadata = self._answer(self._socket, until)
        except (
            PolicyUnavailable,
            OSError,
            ConnectionClosed,
            InvalidHandshake,
            InvalidURI,
        ) as error:
            self.close()
            known = isinstance(error, PolicyUnavailable)
            self._fault = str(error) if known else self._sentence(error)
            self._pause_ends = self._clock() + PAUSE
            raise PolicyUnavailable(self._fault) from None
        self.connections += 1
        return self._socket

    def _answer(self, connection: ClientConnection, until: float) -> dict[str, Any]:
        received = connection.recv(timeout=max(0.0, until - self._clock()))
        if isinstance(received, str):  # a server that fails says its traceback, and closes
            lines = received.strip().splitlines() or ["nothing"]
            raise PolicyUnavailable(f"policy server {self.url} failed: {lines[-1].strip()[:200]}")
        try:
            answer = unpack(received)
        except PolicyUnavailable as error:
            raise PolicyUnavailable(f"policy server {self.url} sent {error}") from None
        if not isinstance(answer, dict):
            raise PolicyUnavailable(
                f"policy server {self.url} sent a {type(answer).__name__}, expected a map"
            )
        return answer

    def _sentence(self, error: Exception) -> str:
        who = f"policy server {self.url}"
        if isinstance(error, (TimeoutError, BlockingIOError)):
            return f"{who} gives no answer within {self.timeout:g} s"
        if isinstance(error, ConnectionClosed):
            return f"{who} closed the connection: {error}"
        if isinstance(error, OSError):
            why = (error.strerror or str(error) or type(error).__name__).lower()
            return f"{who} cannot be reached: {why}; start it, or correct the address"
        return f"{who} does not speak openpi's protocol: {error}"
