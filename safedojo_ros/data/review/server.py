"""The page on which a person answers, served to this machine alone."""

import json
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from safedojo_ros.core.errors import DatasetError
from safedojo_ros.data.review.review import Review

LOOPBACK = "127.0.0.1"
LONGEST = 4096
"""Bytes of an answer."""


class ReviewServer(ThreadingHTTPServer):
    """Serves `review` at `address` until every episode is saved, or `shutdown`.

    port: 0: one that is free. Raises `OSError` where it is taken.
    """

    daemon_threads = True

    def __init__(self, review: Review, port: int = 0) -> None:
        self.review, self.lock = review, Lock()
        self.page = resources.files(__package__).joinpath("page.html").read_bytes()
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def address(self) -> str:
        """For a browser."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/"

    def answered(self, said: dict[str, Any]) -> None:
        """Take what the page has sent; raises `DatasetError` for what it never sends."""
        try:
            number, step = int(said["moment"]), said.get("step")
            if step is None:
                self.review.answer(number, bool(said["right"]))
            else:
                self.review.mark(number, int(step), bool(said["contact"]))
        except (KeyError, TypeError, ValueError):
            raise DatasetError(f"{said!r:.80} is no answer") from None


class _Handler(BaseHTTPRequestHandler):
    """GET / the page, /state, /image?moment=&step=; POST /answer."""

    server: ReviewServer

    def do_GET(self) -> None:
        """The page, and what it asks for."""
        parts = urlsplit(self.path)
        if parts.path == "/":
            self._send("text/html; charset=utf-8", lambda: self.server.page)
        elif parts.path == "/state":
            self._send("application/json", self._state)
        elif parts.path == "/image":
            asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
            self._send("image/png", lambda: self._image(asked))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        """An answer; the new state comes back."""
        origin = self.headers.get("Origin", self.server.address.rstrip("/"))
        length = self.headers.get("Content-Length", "")
        sound = length.isdigit() and int(length) <= LONGEST
        if self.path != "/answer" or not sound or urlsplit(origin).netloc != self._own_name():
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        body = self.rfile.read(int(length))
        self._send("application/json", lambda: self._answer(body))
        if self.server.review.done:
            Thread(target=self.server.shutdown, daemon=True).start()

    def _answer(self, body: bytes) -> bytes:
        try:
            said = json.loads(body)
        except ValueError:
            raise DatasetError("the answer is no JSON") from None
        self.server.answered(said)
        return self._state()

    def _state(self) -> bytes:
        return json.dumps(self.server.review.state()).encode()

    def _image(self, asked: dict[str, str]) -> bytes:
        try:
            place = int(asked["moment"]), int(asked["step"])
        except (KeyError, ValueError):
            raise DatasetError("an image has a moment and a step") from None
        return self.server.review.image(*place)

    def _own_name(self) -> str:
        """Under which the browser asks; a page of another name is none of ours."""
        name, port = self.headers.get("Host", ""), self.server.server_address[1]
        return name if name in (f"{LOOPBACK}:{port}", f"localhost:{port}") else "nobody's"

    def _send(self, kind: str, made: Callable[[], bytes]) -> None:
        if self._own_name() == "nobody's":
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        status = HTTPStatus.OK
        try:
            with self.server.lock:
                body = made()
        except DatasetError as error:
            status, kind = HTTPStatus.BAD_REQUEST, "application/json"
            body = json.dumps({"error": str(error)}).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""
