"""Follow the store's `latest`: one small file is read again and again, in a thread of its own."""

import threading
from collections.abc import Callable

from safedojo_ros.core.errors import SafeDojoError


class Follower:
    """Asks for a checkpoint whenever `latest` moves to it, once."""

    def __init__(
        self,
        latest: Callable[[], str | None],
        take: Callable[[str], object],
        refusal: Callable[[str], str],
        say: Callable[[str], object],
        running: str = "",
    ) -> None:
        """latest: the id that is pointed to; take: ask for an id; refusal: why an id is never
        taken again, or ""; say: tell a person; running: the id that runs already."""
        self._latest, self._take, self._refusal, self._say = latest, take, refusal, say
        self._seen: str | None = running or None
        self._fault = ""
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Look once."""
        try:
            newest = self._latest()
        except (SafeDojoError, OSError) as error:
            if str(error) != self._fault:
                self._fault = str(error)
                self._say(f"cannot follow latest: {error}")
            return
        self._fault = ""
        if newest is None or newest == self._seen:
            return
        self._seen = newest
        why = self._refusal(newest)
        if why:
            self._say(f"latest is {newest}, which is not taken again: {why}")
        else:
            self._take(newest)

    def start(self, period: float) -> None:
        """Look every `period` seconds until `close`."""

        def work() -> None:
            while not self._end.wait(period):
                self.look()

        self._thread = threading.Thread(target=work, name="follow", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)
