"""The store that every stage and command publishes in."""

from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.names import user_store
from safedojo_ros.checkpoints.store.store import CheckpointStore


def publishing_store(root: Path | None = None) -> CheckpointStore:
    """The store at `root`, by default the user's; what is to enter is loaded and acts once before.

    Nothing enters, and `latest` stays, where it fails.
    """
    return user_store(root, prove=_prove)


def _prove(kind: str, directory: Path, spec: dict[str, Any]) -> None:
    """As `models.trial.act_once`; torch is imported here and not earlier."""
    from safedojo_ros.models.trial import act_once

    act_once(kind, directory, spec)
