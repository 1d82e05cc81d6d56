from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.golden import files_of, golden_checkpoint, golden_images
from support.loopback_hub import LoopbackHub
from support.paths import GOLDEN, REPO
from support.tiny_checkpoints import copy_checkpoint, split_into_shards

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import SINGLE_FILE, Checkpoint
from artimuse_actor.checkpoint.names import OWNER, PUBLISHED_NAMES, download, open_checkpoint
from artimuse_actor.errors import CheckpointError

pytestmark = pytest.mark.timeout(60)

DIGEST = Checkpoint(golden_checkpoint("artimuse")).digest


def artimuse_files() -> dict[str, bytes]:
    return files_of(golden_checkpoint("artimuse"))


def text_of_error(name: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Names


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_a_published_name_is_fetched_from_its_owner(hub: LoopbackHub, name: str) -> None:
    hub.add(f"{OWNER}/{name}", artimuse_files())
    found = open_checkpoint(name)
    assert (found.name, found.digest) == (name, DIGEST)


def test_a_repository_is_fetched_by_owner_and_name(hub: LoopbackHub) -> None:
    hub.add("somebody/My_Fine-tune.v2", artimuse_files())
    found = open_checkpoint("somebody/My_Fine-tune.v2")
    assert (found.name, found.digest) == ("My_Fine-tune.v2", DIGEST)


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: LoopbackHub) -> None:
    hub.add("somebody/model", files_of(golden_checkpoint("unipercept")))
    commit = hub.add("somebody/model", artimuse_files(), revision="refs/pr/7")
    assert open_checkpoint("somebody/model").digest != DIGEST
    for revision in ("refs/pr/7", commit):
        found = open_checkpoint(f"somebody/model@{revision}")
        assert (found.name, found.digest) == (f"model@{revision}", DIGEST)
    hub.add(f"{OWNER}/ArtiMuse", artimuse_files(), revision="v1.1")
    assert open_checkpoint("ArtiMuse@v1.1").name == "ArtiMuse@v1.1"


def test_a_checkpoint_from_the_hub_scores(hub: LoopbackHub, models: dict[str, ArtiMuse]) -> None:
    hub.add(f"{OWNER}/UniPercept", files_of(golden_checkpoint("unipercept")))
    model, path = ArtiMuse.load("UniPercept"), golden_images()[0]
    assert model.protocol.name == "unipercept"
    assert model.score(path).scores == pytest.approx(models["unipercept"].score(path).scores, abs=1e-4)


def test_a_sharded_checkpoint_is_fetched_whole(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "sharded")
    split_into_shards(folder, 3)
    hub.add("somebody/sharded", files_of(folder))
    assert open_checkpoint("somebody/sharded").digest == Checkpoint(folder).digest


def test_a_local_folder_is_taken_as_it_is_and_nobody_is_asked(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_checkpoint(tmp_path / "ArtiMuse")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ArtiMuse", "./ArtiMuse", "~/ArtiMuse", str(tmp_path / "ArtiMuse")):
        assert open_checkpoint(name).digest == DIGEST
    assert hub.requests == []


# What is fetched


def test_only_data_files_of_the_top_folder_are_fetched(hub: LoopbackHub) -> None:
    extras = {
        "modeling_artimuse.py": b"raise SystemExit('remote code')",
        "pytorch_model.bin": b"\x80\x04pickle",
        "training_args.pt": b"\x80\x04pickle",
        "README.md": b"# ArtiMuse",
        ".gitattributes": b"*.safetensors filter=lfs",
        "chat_template.jinja": b"{{ x }}",
        "onnx/model.safetensors": b"another model",
        "backup/config.json": b"{}",
    }
    hub.add("somebody/model", artimuse_files() | extras)
    found = open_checkpoint("somebody/model")
    assert found.digest == DIGEST
    assert {path.name for path in found.folder.rglob("*")} == set(artimuse_files())
    for name in extras:
        assert hub.downloads(name.split("/")[-1]) == [] or name.split("/")[-1] in artimuse_files()
    assert not any("/onnx/" in request.path or "/backup/" in request.path for request in hub.requests)


def test_what_is_there_is_not_fetched_again(hub: LoopbackHub) -> None:
    hub.add("somebody/model", artimuse_files())
    open_checkpoint("somebody/model")
    before = len(hub.requests)
    assert open_checkpoint("somebody/model").digest == DIGEST
    assert all("/resolve/" not in request.path for request in hub.requests[before:] if request.method == "GET")
    assert len(hub.downloads(SINGLE_FILE)) == 1


def test_a_new_commit_is_noticed(hub: LoopbackHub) -> None:
    hub.add("somebody/model", artimuse_files())
    open_checkpoint("somebody/model")
    hub.add("somebody/model", files_of(golden_checkpoint("unipercept")))
    assert open_checkpoint("somebody/model").digest == Checkpoint(golden_checkpoint("unipercept")).digest


@pytest.mark.parametrize("access", ["stopped", "down"])
def test_a_second_load_needs_no_hub(hub: LoopbackHub, access: str) -> None:
    hub.add("somebody/model", artimuse_files())
    open_checkpoint("somebody/model")
    if access == "stopped":
        hub.stop()
    else:
        hub.repositories["somebody/model"].access = "down"
    assert open_checkpoint("somebody/model").digest == DIGEST


# Broken connections


def test_a_dropped_connection_is_resumed_where_it_broke(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 64 * 1024)  # of 10 MB, more than the whole file
    hub.add("somebody/model", artimuse_files())
    hub.break_connections(SINGLE_FILE, after_bytes=300_000, times=3)
    found = open_checkpoint("somebody/model")
    ranges = [request.range for request in hub.downloads(SINGLE_FILE)]
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in ranges[1:] if asked]
    assert ranges[0] is None
    assert len(starts) == 3
    assert all(200_000 <= later - earlier <= 300_000 for earlier, later in zip([0, *starts], starts, strict=False))
    assert (found.folder / SINGLE_FILE).read_bytes() == artimuse_files()[SINGLE_FILE]
    assert found.digest == DIGEST


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
def test_a_download_that_died_is_a_sentence_and_the_next_run_goes_on(
    hub: LoopbackHub, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # huggingface_hub takes up a closed connection five times, with a pause of a second each, and a reset one never.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.add("somebody/model", artimuse_files())
    hub.break_connections(SINGLE_FILE, after_bytes=0 if not reset else 300_000, times=100, reset=reset)
    message = text_of_error("somebody/model")
    assert message.startswith("somebody/model: the download failed (")
    assert message.endswith("Run again; files that are whole are kept.")

    hub.breaks.clear()
    before, kept = len(hub.requests), {path.name for path in Path(constants.HF_HUB_CACHE).glob("*/snapshots/*/*")}
    assert open_checkpoint("somebody/model").digest == DIGEST
    again = {request.path.split("/")[-1] for request in hub.requests[before:] if "/resolve/" in request.path}
    assert SINGLE_FILE in again  # and perhaps small files that were under way when it failed
    assert again == artimuse_files().keys() - kept


def test_a_hub_that_goes_away_in_the_middle_is_a_sentence(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("somebody/model", artimuse_files())
    hub.break_connections(SINGLE_FILE, after_bytes=300_000, times=1, reset=True)
    text_of_error("somebody/model")
    hub.stop()
    # What is there is not the whole checkpoint, and is not taken for it.
    message = text_of_error("somebody/model")
    assert "the hub cannot be reached and the checkpoint is not, or not whole, in its cache" in message


def test_a_file_that_is_shorter_than_the_hub_says_is_not_taken(hub: LoopbackHub) -> None:
    files = artimuse_files()
    hub.add("somebody/model", files | {SINGLE_FILE: files[SINGLE_FILE][:-1000]})
    assert "model.safetensors: is cut short" in text_of_error("somebody/model")


# Refusals


def test_a_missing_repository_is_a_sentence(hub: LoopbackHub) -> None:
    message = text_of_error("somebody/nothing")
    assert message.startswith("somebody/nothing: there is no such folder, and the hub has no such repository")


def test_a_missing_revision_is_a_sentence(hub: LoopbackHub) -> None:
    hub.add("somebody/model", artimuse_files())
    message = text_of_error("somebody/model@v9")
    assert message == "somebody/model@v9: the repository has no such branch, tag or commit."


def test_a_gated_repository_asks_for_a_token_and_opens_with_it(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("somebody/model", artimuse_files())
    hub.repositories["somebody/model"].access = "gated"
    assert text_of_error("somebody/model") == (
        "somebody/model: the hub asks for a token that may read it. Set HF_TOKEN."
    )
    assert {request.authorization for request in hub.requests} == {None}
    monkeypatch.setenv("HF_TOKEN", "hf_letmein")
    assert open_checkpoint("somebody/model").digest == DIGEST


def test_a_hub_that_cannot_be_reached_is_a_sentence(hub: LoopbackHub) -> None:
    hub.stop()
    message = text_of_error("ArtiMuse")
    assert message.startswith(f"{OWNER}/ArtiMuse: the hub cannot be reached and the checkpoint is not")


def test_a_hub_with_a_fault_is_a_sentence(hub: LoopbackHub) -> None:
    hub.add("somebody/model", artimuse_files())
    hub.repositories["somebody/model"].access = "down"
    assert text_of_error("somebody/model").startswith("somebody/model: the hub cannot be reached")


def test_a_repository_without_a_checkpoint_is_what_the_folder_would_be(hub: LoopbackHub) -> None:
    hub.add("somebody/dataset", {"README.md": b"# Photos", "data.parquet": b"PAR1"})
    with pytest.raises(CheckpointError):
        open_checkpoint("somebody/dataset")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ArtyMuse", "no published checkpoint of that name. Published are ArtiMuse, ArtiMuse_AVA"),
        ("./nowhere", "there is no such folder. Check the path"),
        ("/nowhere/at/all", "there is no such folder. Check the path"),
        ("~nobody-of-this-name/model", "there is no such folder. Check the path"),
        ("one/two/three", "there is no such folder. Check the path"),
        ("a name with blanks", "there is no such folder. Check the path"),
        ("somebody/model@", "there is no such folder. Check the path"),
        ("somebody/model\n", "there is no such folder. Check the path"),
        ("somebody/model\0", "there is no such folder. Check the path"),
        ("", "there is no such folder. Check the path"),
        ("x" * 5000, "there is no such folder"),
        ("a--b/c..d", "no repository can have this name"),
        ("../../nowhere", "there is no such folder. Check the path"),
    ],
    ids=lambda value: value[:30],
)
def test_a_name_that_is_neither_folder_nor_repository_is_a_sentence(hub: LoopbackHub, name: str, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(name)
    assert message in str(caught.value)
    assert hub.requests == []


def test_a_file_in_the_place_of_a_folder_is_a_sentence() -> None:
    message = text_of_error(str(GOLDEN / "artimuse" / "golden.json"))
    assert message.endswith("golden.json: is a file. Name the folder that holds config.json and the weights.")


def test_a_download_is_a_folder_in_the_hubs_cache(hub: LoopbackHub) -> None:
    commit = hub.add("somebody/model", artimuse_files())
    folder = download("somebody/model")
    assert folder == Path(constants.HF_HUB_CACHE) / "models--somebody--model" / "snapshots" / commit


# The environment


@pytest.mark.process
def test_hf_endpoint_hf_home_and_hf_hub_offline_mean_what_they_mean_everywhere(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    hub.add(f"{OWNER}/ArtiMuse_PARA", artimuse_files())
    code = "from artimuse_actor.checkpoint.names import open_checkpoint; print(open_checkpoint('ArtiMuse_PARA').digest)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}

    def digest(home: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=environment | {"HF_ENDPOINT": hub.url + "/", "HF_HOME": str(tmp_path / home)} | settings,
            cwd=REPO,
            capture_output=True,
            text=True,
            timeout=30,
        )

    fetched = digest("home")
    assert fetched.stdout.strip() == DIGEST, fetched.stderr
    assert (tmp_path / "home" / "hub").is_dir()
    before = len(hub.requests)
    assert digest("home", HF_HUB_OFFLINE="1").stdout.strip() == DIGEST
    refused = digest("empty", HF_HUB_OFFLINE="1")
    assert "CheckpointError: Thunderbolt215215/ArtiMuse_PARA: the hub cannot be reached" in refused.stderr
    assert len(hub.requests) == before


@pytest.mark.process
def test_processes_of_a_node_that_start_together_fetch_once(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add("somebody/model", artimuse_files())
    hub.latency_s = 0.5
    code = (
        "from artimuse_actor.checkpoint.names import open_checkpoint; print(open_checkpoint('somebody/model').digest)"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment,
            cwd=REPO,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(3)
    ]
    assert [process.communicate(timeout=50)[0].strip() for process in processes] == [DIGEST] * 3
    assert len(hub.downloads(SINGLE_FILE)) == 1
