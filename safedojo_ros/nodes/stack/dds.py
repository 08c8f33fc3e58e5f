"""What the runs and the users of one machine share: ROS domains, and Fast DDS's shared memory.

Shared memory can be opened by the user who made it alone, and Fast DDS says nothing where it
cannot: nodes of two users see each other's topics and hear nothing, unless one of them uses UDP
alone.
"""

import contextlib
import fcntl
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from safedojo_ros.core.errors import ConfigError

DOMAINS = range(1, 101)
"""ROS domains whose ports lie below the ephemeral ones."""

FIRST_PORT, PORTS, UNICAST = 7400, 250, 10
"""Of the ports of a DDS domain: the first of all, how many a domain has, a participant's first."""

SHARED_MEMORY = Path("/dev/shm")
SEGMENT_LOCK = re.compile(r"fastrtps_[0-9a-f]{16}_el")
PORT_LOCK = re.compile(r"fastrtps_port(\d+)_el")
SETTLED = 2.0
"""Seconds after which a segment that nobody has locked is nobody's."""


class DomainLease:
    """A ROS domain that no other run of this package, of any user, uses here, until `release`.

    The lease is a name in the kernel's own name space, as wide as the network that the domains
    divide; no file is made, and it ends with its process.
    """

    def __init__(
        self, name: str = "safedojo_domain", silent: Callable[[int], bool] | None = None
    ) -> None:
        """name: of the leases; silent: whether nobody is heard in a domain, by default whether its
        first port is free. Raises `ConfigError` when every domain is taken."""
        silent = silent or domain_is_silent
        for number in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
            self._name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with contextlib.suppress(OSError):
                self._name.bind(f"\0{name}_{number}")
                if silent(number):
                    self.number = number
                    return
            self._name.close()
        raise ConfigError(f"all of the ROS domains {DOMAINS} are in use; set ROS_DOMAIN_ID")

    def release(self) -> None:
        """Let others have it."""
        self._name.close()


def domain_is_silent(number: int) -> bool:
    """Whether no DDS participant of this machine has taken the first port of a domain."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as port:
        try:
            port.bind(("", FIRST_PORT + PORTS * number + UNICAST))
        except OSError:
            return False
    return True


def users_in_shared_memory(folder: Path = SHARED_MEMORY) -> dict[int, set[int]]:
    """{ROS domain: ids of the users whose living nodes use shared memory there}."""
    users: dict[int, set[int]] = {}
    for lock in _locks(folder, PORT_LOCK):
        with contextlib.suppress(OSError):
            match, user = PORT_LOCK.fullmatch(lock.name), lock.stat().st_uid
            assert match is not None
            if int(match[1]) >= FIRST_PORT and _is_held(lock):
                users.setdefault((int(match[1]) - FIRST_PORT) // PORTS, set()).add(user)
    return users


def others_share_memory(domain: int, folder: Path = SHARED_MEMORY) -> bool:
    """Whether nodes of other users in `domain` use shared memory that is not ours to open."""
    return bool(users_in_shared_memory(folder).get(domain, set()) - {os.getuid()})


def remove_dead_segments(folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove this user's segments whose owner was killed; returns their names.

    A segment's owner keeps its lock until it ends. Ports and semaphores are left alone: they are
    small, shared by all domains, and used again. So is a segment that may just be coming into use.
    """
    removed = []
    for lock in _locks(folder, SEGMENT_LOCK):
        with contextlib.suppress(OSError):
            found = lock.stat()
            settled = time.time() - found.st_ctime > SETTLED
            if found.st_uid == os.getuid() and settled and not _is_held(lock):
                segment = lock.with_name(lock.name.removesuffix("_el"))
                segment.unlink(missing_ok=True)
                lock.unlink()
                removed.append(segment.name)
    return sorted(removed)


def _locks(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    return (path for path in folder.glob("fastrtps_*_el") if pattern.fullmatch(path.name))


def _is_held(lock: Path) -> bool:
    """Whether a living process, in whatever container, holds this lock file."""
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
