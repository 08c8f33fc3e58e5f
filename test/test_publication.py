"""What is published: whether it may serve, what is said of it, and what ships."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_directories import NORMALISATION, SPEC, write_source
from safetensors.torch import load_file, save_file

from safedojo_ros.checkpoints import names as names_module
from safedojo_ros.checkpoints.figures import figures_text, standing
from safedojo_ros.checkpoints.manifest import Manifest, parse_manifest, read_manifest
from safedojo_ros.checkpoints.names import SHIPPED, find_checkpoint, shipped_store
from safedojo_ros.checkpoints.store.store import CheckpointStore
from safedojo_ros.checkpoints.swap.hot_swap import fits_robot
from safedojo_ros.cli.main import main
from safedojo_ros.core.errors import CheckpointError
from safedojo_ros.fidelity.gates import missed_gates
from safedojo_ros.models.loading import load_policy
from safedojo_ros.models.normalisation import unit_scales
from safedojo_ros.models.pi0_policy import tiny_policy
from safedojo_ros.pipeline import shipping
from safedojo_ros.pipeline.publication import PublicationRefused, publish, serve
from safedojo_ros.pipeline.recipe import read_recipe
from safedojo_ros.pipeline.shipping import LIMIT, ship, size_of

SETTINGS = {"split": "validation", "first_seed": 0, "episodes": 100, "execute": 4, "batch": 8}


def evaluation(ssr: float, tsr: float = 0.8, levels: str = "I", **settings: Any) -> dict[str, Any]:
    """As manifests have it; `levels` by spaces, all with the same rates."""
    rates = {"tsr": {"value": tsr}, "car": {"value": 0.9}, "ssr": {"value": ssr}}
    report = {
        "settings": SETTINGS | settings,
        "levels": {name: {"episodes": 100, **rates} for name in levels.split()},
    }
    return {"validation": report}


class Publisher:
    """Publishes policies that need not act; keeps what is said."""

    def __init__(self, folder: Path) -> None:
        self.store, self.said = CheckpointStore(folder / "store"), list[str]()
        self._source = write_source(folder / "source")

    def publish(self, ssr: float | None = None, **more: Any) -> Manifest:
        if ssr is not None:
            more["evaluation"] = evaluation(ssr, more.pop("tsr", 0.8))
        self.said.clear()
        return publish(
            self.store.root, "policy", self._source,
            say=self.said.append, spec=SPEC, normalisation=NORMALISATION, **more,
        )  # fmt: skip

    @property
    def latest(self) -> str | None:
        return self.store.latest("policy")


@pytest.fixture
def ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointStore:
    """A small `base` and `safe` that ship, of SSR 30 and 50 %; their files may be replaced."""
    store = CheckpointStore(tmp_path / "shipped")
    monkeypatch.setattr(names_module, "shipped_store", lambda: store)
    monkeypatch.setattr(shipping, "shipped_store", lambda: store)
    made = {
        name: store.publish(
            "policy", write_source(tmp_path / name, ssr), spec=SPEC, evaluation=evaluation(ssr)
        ).id
        for name, ssr in (("base", 0.3), ("safe", 0.5))
    }
    (store.root / "names.json").write_text(json.dumps({"policy": made}))
    return store


@pytest.fixture
def publisher(
    tmp_path: Path, ships: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Publisher]:
    with monkeypatch.context() as patch:
        patch.setattr("safedojo_ros.models.trial.act_once", lambda kind, directory, spec: None)
        yield Publisher(tmp_path)


# -------------------------------------------------------------------- whether it may serve


def test_a_smoke_run_is_published_and_never_latest_unless_forced(publisher: Publisher) -> None:
    serving = publisher.publish(preset="tiny").id
    made = publisher.publish(preset="smoke, policy.steps=9")
    assert publisher.latest == serving
    assert "'latest' of policy was not moved" in publisher.said[0]
    assert publisher.store.show("policy", made.id).preset == "smoke, policy.steps=9"
    assert publisher.publish(preset="smoke", force=True).id == publisher.latest


def test_a_policy_that_did_worse_than_the_one_that_serves_stays_out_unless_forced(
    publisher: Publisher,
) -> None:
    serving = publisher.publish(0.7)
    with pytest.raises(PublicationRefused) as refused:
        publisher.publish(0.69)
    said = str(refused.value)
    assert "SSR 69.0 % and TSR 80.0 %" in said
    assert f"{serving.id}, has SSR 70.0 % and TSR 80.0 % (100 episodes, Level I)" in said
    assert "--force" in said
    assert "\n" not in said
    assert [m.id for m in publisher.store.list("policy")] == [serving.id]
    assert publisher.publish(0.69, force=True).id == publisher.latest


@pytest.mark.parametrize(
    ("ssr", "tsr", "taken"),
    [(0.7, 0.8, True), (0.7, 0.79, False), (0.71, 0.6, True), (0.69, 0.95, False)],
)
def test_success_without_collision_decides_and_success_where_that_is_the_same(
    publisher: Publisher, ssr: float, tsr: float, taken: bool
) -> None:
    before = publisher.publish(0.7).id
    if taken:
        assert publisher.publish(ssr, tsr=tsr).id == publisher.latest
    else:
        with pytest.raises(PublicationRefused):
            publisher.publish(ssr, tsr=tsr)
        assert publisher.latest == before


def test_where_nothing_was_published_the_policy_that_ships_serves(publisher: Publisher) -> None:
    with pytest.raises(PublicationRefused, match=r"has SSR 50.0 %"):
        publisher.publish(0.4)
    assert publisher.publish(0.5).id == publisher.latest


def test_what_cannot_be_compared_is_published_and_says_so(publisher: Publisher) -> None:
    publisher.publish(0.7)
    assert publisher.publish().id == publisher.latest
    assert "no evaluation is recorded" in publisher.said[0]
    publisher.publish(0.7)
    made = publisher.publish(evaluation=evaluation(0.1, first_seed=100))
    assert made.id == publisher.latest
    assert "no episodes in common" in publisher.said[0]


def test_what_is_kept_from_latest_is_not_compared(publisher: Publisher) -> None:
    serving = publisher.publish(0.7).id
    publisher.publish(0.1, make_latest=False)
    assert publisher.latest == serving


def test_what_was_fetched_serves_by_the_same_rules(publisher: Publisher) -> None:
    serving = publisher.publish(0.7).id
    worse = publisher.publish(0.6, make_latest=False).id
    smoke = publisher.publish(0.9, make_latest=False, preset="smoke").id
    with pytest.raises(PublicationRefused):
        serve(publisher.store, "policy", worse, force=False)
    serve(publisher.store, "policy", smoke, force=False)
    assert publisher.latest == serving
    serve(publisher.store, "policy", worse, force=True)
    assert publisher.latest == worse


def spoilt(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A policy whose weights are not finite, and its spec."""
    model = tiny_policy(0, ["put it there"])
    folder.mkdir()
    model.save(folder)
    weights = load_file(folder / "model.safetensors")
    weights[max(weights)].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors")
    return folder, model.spec()


def test_a_policy_that_is_not_finite_stays_out_unless_forced(
    tmp_path: Path, ships: CheckpointStore
) -> None:
    store, said = CheckpointStore(tmp_path / "store"), list[str]()
    policy, spec = spoilt(tmp_path / "policy")
    how: dict[str, Any] = {"spec": spec, "say": said.append}
    with pytest.raises(CheckpointError, match=r"are not finite.*--force publishes it"):
        publish(store.root, "policy", policy, **how)
    assert not store.list()
    assert publish(store.root, "policy", policy, force=True, **how).id == store.latest("policy")
    assert any("forced: this policy is not fit to be used" in line for line in said)


# -------------------------------------------------------------------- figures


def test_only_common_levels_of_the_same_protocol_are_compared() -> None:
    both = standing(evaluation(0.6, levels="0 I"), evaluation(0.7, levels="I II"))
    assert both is not None
    assert (both.levels, both.episodes, both.new[2], both.old[2]) == (("I",), 100, 0.6, 0.7)
    assert standing(evaluation(0.6), evaluation(0.7, levels="II")) is None
    fewer = evaluation(0.7)
    fewer["validation"]["levels"]["I"]["episodes"] = 50
    assert standing(evaluation(0.6), fewer) is None
    assert standing(evaluation(0.6, filter="gate"), evaluation(0.7)) is None
    assert standing(evaluation(0.6, batch=32), evaluation(0.7)) is not None
    tasks = [{**evaluation(0.6)["validation"], "cells": [{"task": t}]} for t in ("cube", "can")]
    assert standing({"a": tasks[0]}, {"a": tasks[1]}) is None
    assert standing({"a": tasks[0]}, {"b": tasks[0]}) is not None


@pytest.mark.parametrize(
    "harm",
    [
        lambda report: report.update(levels=None),
        lambda report: report.update(levels={"I": {"episodes": "many"}}),
        lambda report: report["levels"]["I"].update(ssr=[]),
        lambda report: report.pop("settings"),
        lambda report: report.update(settings=[1]),
    ],
)
def test_figures_that_are_none_are_not_compared(harm: Callable[[dict[str, Any]], Any]) -> None:
    given = evaluation(0.6)
    harm(given["validation"])
    assert standing(given, evaluation(0.6)) is None
    assert standing({"x": 3}, evaluation(0.6)) is None


def test_the_list_says_what_ships_and_what_is_in_the_store(
    publisher: Publisher, ships: CheckpointStore, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = publisher.publish(0.6, preset="tiny").id
    capsys.readouterr()
    assert main(["checkpoint", "--store", str(publisher.store.root), "list"]) == 0
    rows = {line.split()[2]: line for line in capsys.readouterr().out.splitlines() if "202" in line}
    names = names_module.shipped_names()["policy"]
    assert list(rows) == [names["base"], names["safe"], mine]
    assert "base" in rows[names["base"]]
    assert "I 80/90/50" in rows[names["safe"]]
    assert "latest" in rows[mine]
    assert "tiny" in rows[mine]


def test_every_policy_that_ships_fits_the_robot_that_the_nodes_drive() -> None:
    fits = fits_robot(["agentview", "wrist"])
    policies = [manifest for manifest in shipped_store().list() if manifest.kind == "policy"]
    assert len(policies) == 2
    for manifest in policies:
        fits(manifest)


def test_practice_takes_the_imagined_world_that_ships() -> None:
    kinds = ("world_model", "success", "safety")
    manifests = {kind: read_manifest(find_checkpoint(kind, SHIPPED, None)) for kind in kinds}
    heads = {kind: manifests[kind].id for kind in ("success", "safety")}
    assert missed_gates({kind: manifests[kind].fidelity for kind in kinds}, heads) == []


def test_figures_of_every_kind_that_ships_are_shown() -> None:
    for manifest in shipped_store().list():
        assert figures_text(manifest), manifest.kind


def test_the_preset_and_what_was_changed_go_into_the_manifest(tmp_path: Path) -> None:
    assert read_recipe("smoke").preset == "smoke"
    assert read_recipe("tiny", ["policy.steps=3"]).preset == "tiny, policy.steps=3"
    own = tmp_path / "mine.toml"
    own.write_text("")
    assert read_recipe(str(own)).preset == "mine.toml"


def test_a_manifest_without_a_preset_is_read_and_written_as_before(publisher: Publisher) -> None:
    text = publisher.publish().to_json()
    assert "preset" not in json.loads(text)
    assert parse_manifest(text).preset == ""


def test_the_command_records_an_evaluation_and_compares(
    publisher: Publisher, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = publisher.store.root
    serving = publisher.publish(evaluation={"tabletop": evaluation(0.7)["validation"]}).id
    given = publisher.publish(make_latest=False).id
    file = tmp_path / "report.json"
    report = evaluation(0.6)["validation"] | {"policy": given, "world": "tabletop", "episodes": []}
    file.write_text(json.dumps(report))
    command = ["checkpoint", "--store", str(root), "publish", "policy"]
    given_directory = str(root / "policy" / given)
    assert main([*command, given_directory, "--evaluation", str(file)]) == 2
    assert "SSR 60.0 % and TSR 80.0 %" in capsys.readouterr().err
    assert publisher.latest == serving
    assert main([*command, given_directory, "--evaluation", str(file), "--force"]) == 0
    made = publisher.store.show("policy")
    assert made.parent == given
    assert "episodes" not in made.evaluation["tabletop"]
    file.write_text(json.dumps(report | {"policy": "another"}))
    assert main([*command, given_directory, "--evaluation", str(file)]) == 2
    assert f"is about 'another', expected {given}" in capsys.readouterr().err
    file.write_text("[]")
    assert main([*command, given_directory, "--evaluation", str(file)]) == 2
    assert "is no report" in capsys.readouterr().err


# -------------------------------------------------------------------- what ships


@pytest.fixture
def trained(tmp_path: Path) -> CheckpointStore:
    """A store with a policy that can act, in float32."""
    model = tiny_policy(0, ["put it there"])
    (tmp_path / "trained").mkdir()
    model.save(tmp_path / "trained")
    store = CheckpointStore(tmp_path / "store")
    store.publish(
        "policy",
        tmp_path / "trained",
        spec=model.spec(),
        normalisation=unit_scales().to_json(),
        preset="tiny",
    )
    return store


def test_what_ships_is_replaced_in_float16_and_the_old_one_is_gone(
    ships: CheckpointStore, trained: CheckpointStore
) -> None:
    before = names_module.shipped_names()["policy"]
    report = {"tabletop": evaluation(0.9)["validation"]}
    source = trained.latest("policy")
    said: list[str] = []
    made = ship(
        "policy", "latest", "safe", evaluation=report, store_root=trained.root, say=said.append
    )
    assert names_module.shipped_names()["policy"] == {"base": before["base"], "safe": made.id}
    assert not (ships.root / "policy" / before["safe"]).exists()
    directory = ships.resolve("policy", made.id)
    assert {t.dtype for t in load_file(directory / "model.safetensors").values()} == {torch.float16}
    assert (made.parent, made.preset, made.evaluation) == (source, "tiny", report)
    assert load_policy(directory).spec() == made.spec
    assert f"{size_of(ships.root) / 1e6:.1f} MB" in said[-1]
    again = ship("policy", str(directory), "safe", evaluation={}, say=said.append)
    assert again.id == made.id, "float16 already: its id stays, its figures are replaced"
    assert read_manifest(ships.resolve("policy", made.id)).evaluation == {}


def test_what_another_name_still_stands_for_stays(
    ships: CheckpointStore, trained: CheckpointStore
) -> None:
    base = names_module.shipped_names()["policy"]["base"]
    made = ship("policy", "latest", "safe", store_root=trained.root)
    ship("policy", made.id, "base")
    assert not (ships.root / "policy" / base).exists()
    ship("policy", "latest", "base", store_root=trained.root)
    assert ships.resolve("policy", made.id), "it is `safe`"


def test_what_cannot_ship_leaves_all_as_it_was(
    tmp_path: Path,
    ships: CheckpointStore,
    trained: CheckpointStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names, files = names_module.shipped_names(), sorted(ships.root.rglob("*"))
    root = trained.root
    with pytest.raises(CheckpointError, match="ships as 'saef'; known: base, safe"):
        ship("policy", "latest", "saef", store_root=root)
    policy, spec = spoilt(tmp_path / "spoilt")
    trained.publish("policy", policy, spec=spec)
    with pytest.raises(CheckpointError, match="not finite"):
        ship("policy", "latest", "safe", store_root=root)
    model = tmp_path / "trained"
    trained.publish("policy", model, spec=load_policy(model).spec(), normalisation={})
    with pytest.raises(CheckpointError, match="no normalisation of 'state'"):
        ship("policy", "latest", "safe", store_root=root)
    trained.publish(
        "policy",
        model,
        spec=load_policy(model).spec(),
        normalisation=unit_scales().to_json(),
        requires={"safety": "h"},
    )
    with pytest.raises(CheckpointError, match="requires safety h, which does not ship"):
        ship("policy", "latest", "safe", store_root=root)
    trained.publish(
        "policy", model, spec=load_policy(model).spec(), normalisation=unit_scales().to_json()
    )
    monkeypatch.setattr(shipping, "LIMIT", 1000)
    with pytest.raises(CheckpointError, match=r"would have .* MB instead of .*--force"):
        ship("policy", "latest", "safe", store_root=root)
    assert (names_module.shipped_names(), sorted(ships.root.rglob("*"))) == (names, files)
    ship("policy", "latest", "safe", store_root=root, force=True)


@pytest.mark.xfail(
    strict=True,
    reason="policies of 4.8 MB each, world model 7.4, head 4.8; remove this mark once they fit",
)
def test_all_that_ships_stays_below_its_limit() -> None:
    assert size_of(shipped_store().root) <= LIMIT


def test_what_ships_is_in_float16_and_no_larger_than_it_was() -> None:
    assert math.ceil(size_of(shipped_store().root) / 1e6) <= 23
    for manifest in shipped_store().list():
        assert shipping._is_half(shipped_store().root / manifest.kind / manifest.id)
