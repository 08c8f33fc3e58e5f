"""Runs and users of one machine keep out of each other's way."""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from safedojo_ros.core.errors import ConfigError
from safedojo_ros.nodes.stack import dds
from safedojo_ros.nodes.stack.dds import DOMAINS, DomainLease

ME = os.getuid()


def test_two_runs_never_get_the_same_domain_until_one_gives_it_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = f"test_{os.getpid()}"
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # a folder of one user's decides nothing
    leases = [DomainLease(name, lambda _: True) for _ in DOMAINS]
    assert {lease.number for lease in leases} == set(DOMAINS)
    with pytest.raises(ConfigError, match="ROS_DOMAIN_ID"):
        DomainLease(name, lambda _: True)
    leases[7].release()
    assert DomainLease(name, lambda _: True).number == leases[7].number
    for lease in leases:
        lease.release()
    assert not list(tmp_path.iterdir())


def test_a_domain_in_which_somebody_speaks_is_not_leased() -> None:
    lease = DomainLease(f"speaks_{os.getpid()}", lambda number: number == 42)
    assert lease.number == 42
    lease.release()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as participant:
        participant.bind(("", 7400 + 250 * 101 + 10))
        assert not dds.domain_is_silent(101)
    assert dds.domain_is_silent(101)


@contextmanager
def held(path: Path) -> Iterator[Path]:
    """A lock file as Fast DDS keeps it while its process lives."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield path


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """{name: user} of files that shall belong to another user."""
    found: dict[str, int] = {}
    real = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        values = list(real(path, **options))
        values[4] = found.get(path.name, values[4])
        return os.stat_result(values)

    monkeypatch.setattr(Path, "stat", stat)
    return found


def test_living_nodes_of_another_user_in_the_domain_forbid_shared_memory(
    tmp_path: Path, owners: dict[str, int]
) -> None:
    port = 7400 + 250 * 31 + 11
    with held(tmp_path / f"fastrtps_port{port}_el") as lock:
        assert not dds.others_share_memory(31, tmp_path), "our own"
        owners[lock.name] = ME + 1
        assert dds.others_share_memory(31, tmp_path)
        assert not dds.others_share_memory(30, tmp_path)
        with held(tmp_path / f"fastrtps_port{port + 2}_el"):
            assert dds.users_in_shared_memory(tmp_path) == {31: {ME, ME + 1}}
    assert not dds.others_share_memory(31, tmp_path), "it has ended"


def test_segments_of_killed_nodes_are_removed_and_those_of_others_are_kept(
    tmp_path: Path, owners: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, living, another = (f"fastrtps_{digit * 16}" for digit in "abc")
    for name in (dead, living, another):
        (tmp_path / name).touch()
        (tmp_path / f"{name}_el").touch()
    (tmp_path / "fastrtps_port7411_el").touch()
    owners[f"{another}_el"] = ME + 1
    with held(tmp_path / f"{living}_el"):
        assert dds.remove_dead_segments(tmp_path) == [], "it may just come into use"
        monkeypatch.setattr(dds, "SETTLED", -1.0)
        assert dds.remove_dead_segments(tmp_path) == [dead]
    kept = {living, f"{living}_el", another, f"{another}_el", "fastrtps_port7411_el"}
    assert {path.name for path in tmp_path.iterdir()} == kept
