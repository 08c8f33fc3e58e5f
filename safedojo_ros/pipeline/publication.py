"""How every stage and command publishes, and what they refuse to.

What is to enter a store is loaded and acts once before. A policy that did worse than the one that
serves stays out. A run of the preset `smoke`, which proves the wiring alone, enters and leaves
`latest` where it is. `force` overrides all three.
"""

from pathlib import Path
from typing import Any

from safedojo_ros.checkpoints.figures import standing
from safedojo_ros.checkpoints.manifest import Manifest, read_manifest
from safedojo_ros.checkpoints.names import DEFAULT_POLICY, find_checkpoint, user_store
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.learning.progress import Say

SMOKE = "smoke"


class PublicationRefused(CheckpointError):
    """A policy is worse than the one that serves."""


def publishing_store(root: Path | None = None) -> CheckpointStore:
    """The store at `root`, by default the user's; what is to enter is loaded and acts once before.

    Nothing enters, and `latest` stays, where it fails.
    """
    return user_store(root, prove=_prove)


def publish(
    root: Path | None,
    kind: str,
    directory: Path,
    *,
    preset: str = "",
    force: bool = False,
    make_latest: bool = True,
    say: Say = print,
    **details: Any,
) -> Manifest:
    """Publish a directory in the store at `root` and point `latest` to it.

    preset: what it was trained by; details: as `CheckpointStore.publish`. Raises
    `PublicationRefused`, and `CheckpointError` for what cannot act.
    """

    def prove(kind: str, staged: Path, spec: dict[str, Any]) -> None:
        try:
            _prove(kind, staged, spec)
        except CheckpointError as error:
            if not force:
                raise CheckpointError(f"{error}; --force publishes it all the same") from None
            say(f"forced: this {kind} is not fit to be used: {error}")

    store = user_store(root, prove=prove)
    serves = make_latest and may_serve(
        store, kind, preset, details.get("evaluation") or {}, force, say
    )
    made = store.publish(kind, directory, preset=preset, make_latest=serves, **details)
    say(f"published {kind} {made.id} in {store.root}")
    return made


def serve(store: CheckpointStore, kind: str, name: str, force: bool, say: Say = print) -> None:
    """Point `latest` to a checkpoint that is in the store, by the same rules."""
    made = store.show(kind, name)
    if may_serve(store, kind, made.preset, made.evaluation, force, say):
        store.set_latest(kind, made.id)


def may_serve(
    store: CheckpointStore,
    kind: str,
    preset: str,
    evaluation: dict[str, Any],
    force: bool,
    say: Say = print,
) -> bool:
    """Whether `latest` may move to such a checkpoint; false for one of a smoke run.

    Raises `PublicationRefused` for a policy that did worse than the one that serves: the store's
    latest, or what ships where it has none.
    """
    if preset.partition(",")[0] == SMOKE and not force:
        say(
            f"'latest' of {kind} was not moved: the preset '{SMOKE}' proves the wiring alone; "
            "--force moves it"
        )
        return False
    if kind != "policy":
        return True
    serving = _serving(store)
    if not evaluation:
        say(f"not compared with the policy that serves, {serving.id}: no evaluation is recorded")
        return True
    compared = standing(evaluation, serving.evaluation)
    if compared is None:
        say(
            f"not compared with the policy that serves, {serving.id}: their recorded evaluations "
            "have no episodes in common"
        )
        return True
    new, old = (
        f"SSR {100 * rates[2]:.1f} % and TSR {100 * rates[0]:.1f} %"
        for rates in (compared.new, compared.old)
    )
    said = (
        f"{new}, where the policy that serves, {serving.id}, has {old} "
        f"({compared.episodes} episodes, Level {', '.join(compared.levels)})"
    )
    if compared.worse and not force:
        raise PublicationRefused(f"not published: {said}; --force publishes it all the same")
    say(said)
    return True


def _serving(store: CheckpointStore) -> Manifest:
    if store.latest("policy") is not None:
        return store.show("policy")
    return read_manifest(find_checkpoint("policy", DEFAULT_POLICY, store.root))


def _prove(kind: str, directory: Path, spec: dict[str, Any]) -> None:
    """As `models.trial.act_once`; torch is imported here and not earlier."""
    from safedojo_ros.models.trial import act_once

    act_once(kind, directory, spec)
