"""Checkpoints go to the hub and come back whole, pinned to a commit; anything else is refused."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoint_directories import NORMALISATION, SPEC, value_of, write_source

from safedojo_ros.checkpoints.hub import pull, push
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import CheckpointError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """Repositories in a folder, with the client's own litter beside what it downloads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.private: bool | None = None
        self.fetched: list[str] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.private = private
        (self.folder / repo_id).mkdir(parents=True, exist_ok=exist_ok)

    def upload_folder(
        self, *, repo_id: str, folder_path: str, allow_patterns: list[str], commit_message: str
    ) -> SimpleNamespace:
        for path in Path(folder_path).rglob("*"):
            if path.is_file() and any(path.match(pattern) for pattern in allow_patterns):
                target = self.folder / repo_id / path.relative_to(folder_path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        return SimpleNamespace(oid=COMMIT)

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str, local_dir: str) -> str:
        if revision != COMMIT:
            raise OSError(f"404: no revision {revision}")
        self.fetched.append(filename)
        (Path(local_dir) / ".cache").mkdir(parents=True, exist_ok=True)
        target = Path(local_dir) / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / repo_id / filename, target, follow_symlinks=False)
        return str(target)


class World:
    """Two stores and a hub between them."""

    def __init__(self, folder: Path) -> None:
        self.hub, self.repository = FakeHub(folder / "hub"), folder / "hub" / "me" / "policy"
        self.here, self.there = CheckpointStore(folder / "here"), CheckpointStore(folder / "there")
        self.source = write_source(folder / "source", 5.0)
        self.manifest = self.here.publish(
            "policy", self.source, spec=SPEC, normalisation=NORMALISATION
        )

    def push(self) -> str:
        return push(self.here, "policy", "latest", "me/policy", connect=lambda: self.hub)

    def pull(self, revision: str = COMMIT, **more: bool) -> str:
        return pull(
            self.there, "policy", "me/policy", revision, connect=lambda: self.hub, **more
        ).id


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_what_is_pushed_is_what_is_pulled(world: World) -> None:
    assert world.push() == COMMIT
    assert world.hub.private is True
    assert world.pull() == world.manifest.id
    assert world.there.verify("policy", world.manifest.id) == world.manifest
    assert value_of(world.there.root / "policy" / world.manifest.id) == 5.0
    assert world.there.latest("policy") is None, "it is served only when somebody says so"
    assert world.pull(make_latest=True) == world.manifest.id
    assert world.there.latest("policy") == world.manifest.id


def test_only_what_the_manifest_names_is_fetched(world: World) -> None:
    world.push()
    (world.repository / "pytorch_model.bin").write_bytes(b"pickle")
    (world.repository / "README.md").write_text("words")
    world.pull()
    assert set(world.hub.fetched) == {"manifest.json", *world.manifest.files}


@pytest.mark.parametrize("revision", ["main", "v1", "0123456", "", COMMIT.upper()])
def test_a_revision_that_can_move_is_refused(world: World, revision: str) -> None:
    world.push()
    with pytest.raises(CheckpointError, match="name the commit"):
        world.pull(revision)
    assert world.hub.fetched == []


def flip(repository: Path) -> None:
    content = bytearray((repository / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (repository / "model.safetensors").write_bytes(content)


def name_a_pickle(repository: Path) -> None:
    manifest = repository / "manifest.json"
    manifest.write_text(manifest.read_text().replace("config.json", "config.pkl"))


def leave(repository: Path) -> None:
    manifest = repository / "manifest.json"
    manifest.write_text(manifest.read_text().replace("config.json", "../config.json"))


def link(repository: Path) -> None:
    (repository / "config.json").unlink()
    (repository / "config.json").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (flip, "was altered"),
        (name_a_pickle, "may run code"),
        (leave, "names are relative"),
        (link, "symbolic link"),
        (lambda r: (r / "model.safetensors").unlink(), "FileNotFoundError"),
        (lambda r: (r / "manifest.json").unlink(), "FileNotFoundError"),
    ],
)
def test_what_is_not_a_sound_checkpoint_does_not_enter_the_store(
    world: World, harm: Callable[[Path], object], words: str
) -> None:
    world.push()
    harm(world.repository)
    with pytest.raises(CheckpointError, match=words):
        world.pull()
    assert world.there.list() == []
    assert world.there.broken() == ()


def test_a_checkpoint_with_other_files_is_not_pushed(world: World) -> None:
    (world.source / "notes.txt").write_text("words")
    world.here.publish("policy", world.source, spec=SPEC)
    with pytest.raises(CheckpointError, match=r"'notes\.txt'; only"):
        world.push()
    assert not world.repository.exists()


def test_another_checkpoint_of_the_same_id_is_not_replaced(world: World) -> None:
    world.push()
    mine = world.there.root / "policy" / world.manifest.id
    world.pull()
    manifest = mine / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"parent": null', '"parent": "other"'))
    with pytest.raises(CheckpointError, match="has another policy"):
        world.pull()
    assert '"other"' in manifest.read_text()


def test_the_command_pushes_and_pulls(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for function in (push, pull):
        name = f"safedojo_ros.cli.publishing.{function.__name__}"
        monkeypatch.setattr(name, partial(function, connect=lambda: world.hub))

    def run(store: CheckpointStore, *words: str) -> tuple[int, str]:
        code = main(["checkpoint", "--store", str(store.root), *words])
        return code, "".join(capsys.readouterr())

    code, text = run(world.here, "push", "policy", "latest", "me/policy")
    assert code == 0
    assert COMMIT in text
    words = ("pull", "policy", "me/policy", "--latest", "--revision")
    code, text = run(world.there, *words, COMMIT)
    assert code == 2
    assert "this policy is not fit to be used" in text
    assert world.there.latest("policy") is None
    monkeypatch.setattr("safedojo_ros.models.trial.act_once", lambda kind, directory, spec: None)
    assert run(world.there, *words, COMMIT)[0] == 0
    assert world.there.latest("policy") == world.manifest.id
    code, text = run(world.there, *words, "f" * 40)
    assert code == 2
    assert "404: no revision" in text
    code, text = run(world.there, "pull", "policy", "../etc", "--revision", COMMIT)
    assert code == 2
    assert "write owner/name" in text
