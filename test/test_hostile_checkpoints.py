"""Whatever a checkpoint says, it is taken or refused in one line, soon and without much memory.

SAFEDOJO_HOSTILE_CASES: edits of each file of each shipped kind (default 12).
"""

import contextlib
import json
import os
import random
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from safedojo_ros.checkpoints.manifest import KINDS, MANIFEST, read_manifest, verify
from safedojo_ros.checkpoints.names import SHIPPED, find_checkpoint, shipped_names
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.core.errors import CheckpointError, ConfigError, SafeDojoError
from safedojo_ros.core.strict_json import MAX_DEPTH, parse_json
from safedojo_ros.models.autoencoder import AutoencoderSize
from safedojo_ros.models.loading import load_policy, load_safety, load_success, load_world_model
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.models.safety_head import tiny_safety
from safedojo_ros.models.trial import act_once
from safedojo_ros.pipeline.publication import publishing_store

CASES = int(os.environ.get("SAFEDOJO_HOSTILE_CASES", "12"))
MEMORY = 1500
"""Megabytes of address space that one case may take beyond what the process has."""
SECONDS = 10.0
LOAD: dict[str, Callable[[Path], Any]] = {
    "policy": load_policy,
    "safety": load_safety,
    "world_model": load_world_model,
    "success": load_success,
}
SENTENCE = "put the red cube on the plate"


@contextlib.contextmanager
def bounded(megabytes: int = MEMORY, seconds: float = SECONDS) -> Iterator[None]:
    """More memory raises MemoryError or torch's own; more time fails the test."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, old[1]))
    started = time.monotonic()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    assert time.monotonic() - started < seconds


def refusal(act: Callable[[], object]) -> str:
    """The one line with which `act` is refused; "" where it is not. Another exception goes on."""
    with bounded():
        try:
            act()
        except SafeDojoError as error:
            words = str(error)
            assert words
            assert "\n" not in words
            assert len(words) < 1000
            return words
    return ""


# -------------------------------------------------------------------- weights


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    directory = tmp_path / "policy"
    directory.mkdir()
    tiny_policy(0, [SENTENCE]).save(directory)
    return directory


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("kind", "stored"),
    [
        (torch.int8, "I8"),
        (torch.bool, "BOOL"),
        (torch.complex64, "C64"),
        (torch.float64, "F64"),
        (torch.int64, "I64"),
    ],
)
def test_weights_of_another_type_are_not_cast(policy: Path, kind: Any, stored: str) -> None:
    name = "embed_action_time.action_in_proj.weight"
    rewrite(policy, lambda tensors: tensors.update({name: tensors[name].to(kind)}))
    words = refusal(lambda: load_policy(policy))
    assert f"'{name}' is stored as {stored}, expected F16 or BF16 or F32" in words


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_of_every_size_of_float_are_taken(policy: Path, kind: Any) -> None:
    rewrite(policy, lambda tensors: tensors.update({n: t.to(kind) for n, t in tensors.items()}))
    act_once("policy", policy, load_policy(policy).spec())


def test_a_counter_is_stored_as_what_it_is(tmp_path: Path) -> None:
    shipped = find_checkpoint("success", SHIPPED)
    directory = shutil.copytree(shipped, tmp_path / "success")
    load_success(directory)
    tensors = load_file(directory / "model.safetensors")
    counters = [name for name, tensor in tensors.items() if tensor.dtype == torch.int64]
    assert counters
    rewrite(directory, lambda tensors: tensors.update({counters[0]: tensors[counters[0]].float()}))
    assert "is stored as F32, expected I64" in refusal(lambda: load_success(directory))


# -------------------------------------------------------------------- numbers of the configuration


POLICY_NUMBERS = {
    "denoising_steps": 10_000_000,
    "layers": 10_000_000,
    "width": 10_000_000,
    "image_size": 1_000_000,
    "chunk_length": 0,
    "heads": 0,
    "patch": 1,
    "text_tokens": -1,
    "temperature": 1e9,
}


@pytest.mark.parametrize("name", POLICY_NUMBERS)
def test_a_number_of_a_policy_is_within_its_range(policy: Path, name: str) -> None:
    edit(policy, lambda config: config["size"].update({name: POLICY_NUMBERS[name]}))
    words = refusal(lambda: load_policy(policy))
    assert f"size.{name} is {POLICY_NUMBERS[name]}, expected" in words


@pytest.mark.parametrize("wrong", [4.5, True, "4", None, [4], {}])
def test_a_number_is_a_number(policy: Path, wrong: object) -> None:
    edit(policy, lambda config: config["size"].update(layers=wrong))
    assert "'size.layers' is" in refusal(lambda: load_policy(policy))


def test_sizes_that_the_file_does_not_back_are_refused_before_memory_is_taken(policy: Path) -> None:
    large = {"width": 4096, "expert_width": 4096, "layers": 64, "heads": 64, "head_dim": 512}
    edit(policy, lambda config: config["size"].update(large, feed_forward=16))
    with bounded(300, 60.0), pytest.raises(CheckpointError, match="2108 weights missing"):
        load_policy(policy)


SAFETY_NUMBERS: list[tuple[str, Any, str]] = [
    ("cost_limit", 0.0, "cost_limit is 0.0"),
    ("cost_limit", 1.0, "cost_limit is 1.0"),
    ("cost_limit", -0.2, "cost_limit is -0.2"),
    ("cost_limit", "0.2", "cost_limit is '0.2'"),
    ("cost_m", 0, "cost_m is 0"),
    ("cost_m", 9, "cost_m is 9"),
    ("cost_m", 2.5, "cost_m is 2.5"),
    ("cost_m", True, "cost_m is True"),
    ("contact_threshold", 1.5, "contact_threshold is 1.5"),
    ("cameras", [], "cameras is []"),
    ("cameras", ["a", "a"], "cameras is ['a', 'a']"),
    ("cameras", "agentview", "cameras is 'agentview'"),
    ("normalisation", None, "normalisation of state"),
    ("size", None, "size None"),
    ("autoencoder", 5, "autoencoder 5"),
]


@pytest.mark.parametrize(("name", "value", "words"), SAFETY_NUMBERS)
def test_a_number_of_a_safety_head_is_within_its_range(
    tmp_path: Path, name: str, value: object, words: str
) -> None:
    tiny_safety().save(tmp_path)
    edit(tmp_path, lambda config: config.update({name: value}))
    assert words in refusal(lambda: load_safety(tmp_path))


@pytest.mark.parametrize("scale", [1e-30, 1e30, 0.0, -1.0, "wide", [1.0], 10**30])
def test_normalisation_is_of_numbers_that_an_arm_needs(tmp_path: Path, scale: object) -> None:
    tiny_safety().save(tmp_path)
    edit(tmp_path, lambda config: config["normalisation"]["action"].update(scale=[scale] * 7))
    assert refusal(lambda: load_safety(tmp_path))


def test_an_image_that_would_fill_the_memory_is_no_size() -> None:
    with pytest.raises(ConfigError, match="numbers of an image"):
        AutoencoderSize(widths=(512, 512), image_size=1024)


def test_a_tokenizer_is_a_list_of_words_and_nothing_else_in_its_file_counts(policy: Path) -> None:
    path = policy / "tokenizer.json"
    content = json.loads(path.read_text())
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None}
    content["padding"] = padding | {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    path.write_text(json.dumps(content))
    with bounded(300):
        assert load_policy(policy).tokenise([SENTENCE]).shape == (1, 12)
    content["model"]["vocab"]["red"] = 10**9
    path.write_text(json.dumps(content))
    assert "are not numbered from 0" in refusal(lambda: load_policy(policy))


# -------------------------------------------------------------------- JSON


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 10**6, "nested deeper"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper"),
        ('{"a": ' * 100 + "1" + "}" * 100, "nested deeper"),
        ("1" * 5000, "the integer 1111"),
        ("1" * 25, "the integer 1111"),
        ("1e999", "not a finite number"),
        ("NaN", "not a finite number"),
        ('{"a": 1, "a": 2}', "a key appears twice"),
        (json.dumps({"n" * 1000: 1}), "a key has 1000 characters"),
        ('"\\ud800"', "not Unicode"),
        (b"\xff\xfe\xfd", "not valid JSON"),
        ("0" * 10, "not valid JSON"),
        (" " * 5_000_000, "larger than"),
    ],
)
def test_json_from_elsewhere_is_bounded(text: str | bytes, words: str) -> None:
    assert words in refusal(lambda: parse_json(text, "config.json"))


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH])
def test_json_of_the_greatest_depth_is_read(depth: int) -> None:
    text = "[" * depth + "]" * depth
    assert parse_json(text, "x") == json.loads(text)


@pytest.mark.parametrize("name", ["x" * 5000, "a/" * 3000, "a\0b", "a/b\0c", "a\nb", "\ud800", ""])
def test_a_strange_name_of_a_checkpoint_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    assert refusal(lambda: find_checkpoint("policy", name, tmp_path))
    assert refusal(lambda: CheckpointStore(tmp_path).resolve("policy", name))


# -------------------------------------------------------------------- publishing


@pytest.fixture
def store(tmp_path: Path, policy: Path) -> CheckpointStore:
    store = publishing_store(tmp_path / "store")
    store.publish("policy", policy, spec=load_policy(policy).spec())
    return store


def weights_are_nan(directory: Path) -> None:
    rewrite(directory, lambda tensors: tensors[max(tensors)].fill_(torch.nan))


def weights_are_huge(directory: Path) -> None:
    name = "action_out_proj.weight"
    rewrite(directory, lambda tensors: tensors[name].fill_(3e38))


def steps_are_none(directory: Path) -> None:
    edit(directory, lambda config: config["size"].update(denoising_steps=0))


def chunk_is_longer(directory: Path) -> None:
    edit(directory, lambda config: config["size"].update(chunk_length=16))


def camera_is_another(directory: Path) -> None:
    edit(directory, lambda config: config.update(cameras=["side", "wrist"]))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (weights_are_nan, "are not finite"),
        (weights_are_huge, "its actions are not finite"),
        (steps_are_none, "denoising_steps is 0, expected within"),
        (chunk_is_longer, "its spec says chunk_length 8, the model has 16"),
        (camera_is_another, "its spec says cameras"),
    ],
)
def test_what_cannot_act_is_not_published_and_latest_stays(
    store: CheckpointStore, policy: Path, harm: Callable[[Path], object], words: str
) -> None:
    spec, before = load_policy(policy).spec(), store.latest("policy")
    harm(policy)
    refused = refusal(lambda: store.publish("policy", policy, spec=spec))
    assert words in refused
    assert refused.startswith("nothing was published in ")
    assert store.latest("policy") == before
    assert len(store.list("policy")) == 1


def test_what_was_published_without_proof_does_not_enter_another_store(
    store: CheckpointStore, policy: Path, tmp_path: Path
) -> None:
    elsewhere, spec = CheckpointStore(tmp_path / "elsewhere"), load_policy(policy).spec()
    weights_are_huge(policy)
    made = elsewhere.publish("policy", policy, spec=spec)
    directory = elsewhere.resolve("policy", made.id)
    assert "not finite" in refusal(lambda: store.adopt("policy", directory, make_latest=True))
    assert store.latest("policy") != made.id


def test_a_safety_head_that_answers_always_alike_is_not_published(
    store: CheckpointStore, tmp_path: Path
) -> None:
    head = tiny_safety()
    with torch.no_grad():
        next(reversed(list(head.head.mlp.parameters()))).fill_(-100.0)
    source = tmp_path / "head"
    source.mkdir()
    head.save(source)
    words = refusal(lambda: store.publish("safety", source, spec=head.spec()))
    assert "whatever the chunk" in words


def test_a_proof_leaves_the_random_numbers_of_a_training_alone(policy: Path) -> None:
    spec = load_policy(policy).spec()
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    act_once("policy", policy, spec)
    assert torch.equal(torch.rand(4), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_what_ships_can_act(kind: str) -> None:
    for name in shipped_names()[kind]:
        directory = find_checkpoint(kind, name)
        act_once(kind, directory, read_manifest(directory).spec)


def test_nothing_in_the_package_publishes_without_proof() -> None:
    package = Path(__file__).parents[1] / "safedojo_ros"
    texts = {
        file.name: file.read_text()
        for room in ("pipeline", "cli", "nodes", "learning")
        for file in (package / room).rglob("*.py")
    }
    writing = {n for n, t in texts.items() if "CheckpointStore(" in t or "store.publish(" in t}
    assert writing == {"publication.py", "shipping.py", "trainer_node.py"}
    assert "act_once" in texts["shipping.py"]
    # the trainer verifies what its pipeline has published
    assert "publishing_store(args.store)" in texts["checkpoint.py"], "what is fetched is tried, too"


# -------------------------------------------------------------------- edits at random


HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 7, 64, 1000, 10**7, 2**31, 2**63, 10**30, -(10**18), 0.5, -0.0,
    1e-300, 1e300, 1e999, "", "x" * 100_000, "\ud800", "../../x", "\n", [], {}, [0] * 10_000,
    [[1]], {"a": {}}, ["x"], "NaN",
]  # fmt: skip


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


def edited(rng: random.Random, text: bytes) -> bytes:
    """JSON with one thing changed: a value, a key, its depth, a bit."""
    way = rng.randrange(6)
    if way == 0:
        flipped = bytearray(text)
        for _ in range(rng.randint(1, 4)):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if way == 1:
        return text[: rng.randrange(len(text))]
    content = json.loads(text)
    container, key = rng.choice(places(content))
    if way == 2:
        del container[key]
    elif way == 3 and isinstance(container, dict):
        container["x" * rng.choice([1, 100, 10_000])] = container.pop(key)
    elif way == 4:
        for _ in range(rng.choice([1, 30, 500])):
            container[key] = [container[key]]
    else:
        container[key] = rng.choice(HOSTILE)
    return json.dumps(content).encode()


def edit_header(rng: random.Random, path: Path) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, data = edited(rng, content[8 : 8 + length]), content[8 + length :]
    claimed = len(header) if rng.random() < 0.9 else rng.choice([0, 1, 2**31, 2**63])
    if rng.random() < 0.1:
        data = data[: rng.randrange(len(data))]
    path.write_bytes(claimed.to_bytes(8, "little") + header + data)


def rehash(directory: Path) -> None:
    """What a stranger would do who wants to be believed."""
    import hashlib

    path = directory / MANIFEST
    manifest = json.loads(path.read_text())
    for name in manifest["files"]:
        content = (directory / name).read_bytes()
        entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest["files"][name] = entry
    path.write_text(json.dumps(manifest))


def take(kind: str, directory: Path) -> None:
    """All that happens between a stranger's directory and a model that acts."""
    manifest = verify(directory)
    manifest.to_json()
    act_once(kind, directory, manifest.spec)


@pytest.mark.parametrize("kind", KINDS)
def test_edits_at_random_are_refused_in_one_line_or_do_no_harm(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = find_checkpoint(kind, next(iter(shipped_names()[kind])))
    names = sorted({MANIFEST, *read_manifest(shipped).files})
    refused = cases = 0
    slowest = 0.0
    for name in names:
        for number in range(CASES):
            rng = random.Random(f"{kind} {name} {number}")
            directory = shutil.copytree(shipped, tmp_path / "copy")
            path = directory / name
            path.chmod(0o644)
            if path.suffix == ".safetensors":
                edit_header(rng, path)
            else:
                path.write_bytes(edited(rng, path.read_bytes()))
            if name != MANIFEST:
                rehash(directory)
            started = time.monotonic()
            refused += bool(refusal(lambda: take(kind, directory)))  # noqa: B023
            slowest = max(slowest, time.monotonic() - started)
            cases += 1
            shutil.rmtree(directory)
    if "SAFEDOJO_HOSTILE_CASES" in os.environ:
        with capsys.disabled():
            print(f"\n{kind}: {cases} edits, {refused} refused, slowest {slowest:.2f} s")  # noqa: T201
    assert refused > cases / 2
