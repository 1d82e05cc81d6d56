"""Checkpoints of ModelScope, from a small server on loopback, by its own package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.golden import files_of, golden_checkpoint, golden_images
from support.loopback_modelscope import LoopbackModelScope
from support.score_job import run_artimuse

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.names import PUBLISHED_NAMES, open_checkpoint
from artimuse_actor.errors import CheckpointError

pytestmark = [pytest.mark.server, pytest.mark.process]  # the package asks the system what it runs on

DIGEST = Checkpoint(golden_checkpoint("artimuse")).digest


@pytest.fixture
def modelscope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackModelScope]:
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "their-cache"))
    monkeypatch.delenv("MODELSCOPE_API_TOKEN", raising=False)
    monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)  # it waits between them
    with LoopbackModelScope() as hub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        yield hub


def artimuse_files() -> dict[str, bytes]:
    return files_of(golden_checkpoint("artimuse"))


def test_a_published_name_and_a_repository_are_fetched_once(modelscope: LoopbackModelScope, tmp_path: Path) -> None:
    others = {"model.py": b"import os", "README.md": b"# Hi", "old/config.json": b"{}", "weights.bin": b"pickle"}
    modelscope.add("thunderbolt/ArtiMuse", artimuse_files() | others)
    modelscope.add("someone/mine", artimuse_files(), revision="v1.0")
    found = open_checkpoint("modelscope://ArtiMuse")
    assert (found.name, found.digest) == ("ArtiMuse", DIGEST)
    assert {path.name for path in Path(found.source).iterdir()} >= artimuse_files().keys()
    assert not others.keys() & {path.name for path in (tmp_path / "cache").rglob("*")} - {"config.json"}
    fetched = len(modelscope.downloads())
    assert open_checkpoint("modelscope://thunderbolt/ArtiMuse@master").digest == DIGEST
    assert len(modelscope.downloads()) == fetched
    assert open_checkpoint("modelscope://someone/mine@v1.0").name == "mine@v1.0"


def test_a_branch_that_moves_is_another_checkpoint_and_the_old_one_stays(modelscope: LoopbackModelScope) -> None:
    modelscope.add("thunderbolt/ArtiMuse", artimuse_files() | {"model-2.safetensors": b"left over"})
    open_checkpoint("modelscope://ArtiMuse")
    modelscope.add("thunderbolt/ArtiMuse", artimuse_files())
    before = open_checkpoint("modelscope://ArtiMuse")
    assert not (Path(before.source) / "model-2.safetensors").exists()
    modelscope.add("thunderbolt/ArtiMuse", files_of(golden_checkpoint("unipercept")))
    after = open_checkpoint("modelscope://ArtiMuse")
    assert (after.digest != DIGEST, Checkpoint(Path(before.source)).digest) == (True, DIGEST)
    modelscope.stop()
    assert open_checkpoint("modelscope://ArtiMuse").digest == after.digest


def test_what_modelscope_does_not_give_is_a_sentence(
    modelscope: LoopbackModelScope, monkeypatch: pytest.MonkeyPatch
) -> None:
    modelscope.add("thunderbolt/ArtiMuse", artimuse_files())
    for name, sentence in (
        ("modelscope://someone/nothing", "modelscope://someone/nothing: ModelScope has no such repository or revision"),
        ("modelscope://ArtiMuse@v9", "ModelScope has no such repository or revision"),
        ("modelscope://nothing", "no published checkpoint of that name"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            open_checkpoint(name)
    modelscope.token = "letmein"
    with pytest.raises(CheckpointError, match="Set MODELSCOPE_API_TOKEN"):
        open_checkpoint("modelscope://ArtiMuse")
    modelscope.stop()
    with pytest.raises(CheckpointError, match="ModelScope cannot be reached"):
        open_checkpoint("modelscope://ArtiMuse")


def test_hub_takes_published_and_other_names_from_there_and_leaves_folders_alone(
    modelscope: LoopbackModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*PUBLISHED_NAMES[:2], "ArtiMuse_PARA"):
        modelscope.add(f"thunderbolt/{name}", artimuse_files())
    picture = golden_images()[0]
    for name in ("ArtiMuse", "ArtiMuse_AVA@master", "thunderbolt/ArtiMuse_PARA", "modelscope://ArtiMuse"):
        done = run_artimuse("image", picture, "--checkpoint", name, "--hub", "modelscope", "--json")
        assert json.loads(done.stdout)
    here = run_artimuse(
        "image", picture, "--checkpoint", golden_checkpoint("artimuse"), "--hub", "modelscope", "--json"
    )
    assert here.stdout == done.stdout
    out = tmp_path / "out"
    options = ("--out", out, "--checkpoint", "ArtiMuse_AVA", "--local")
    (tmp_path / "artimuse.toml").write_text('[score]\nhub = "modelscope"\n')
    run_artimuse("--config", tmp_path / "artimuse.toml", "score", picture, *options)
    (run,) = out.glob("_runs/*/run.json")
    assert json.loads(run.read_text())["arguments"]["hub"] == "modelscope"
    refused = run_artimuse("image", picture, "--hub", "modelhub", code=2)
    assert "--hub takes huggingface or modelscope" in refused.stderr
