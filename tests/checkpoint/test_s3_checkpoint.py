"""Checkpoints in a bucket of a real S3 server: fetched once for a node, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from support.fault_proxy import Fault, FaultProxy, as_it_is, cut, drop, refuse, reset, running_proxy, stall
from support.golden import golden_checkpoint, golden_images
from support.paths import REPO
from support.tiny_checkpoints import change_config, copy_checkpoint, split_into_shards

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint import bucket as bucket_checkpoint
from artimuse_actor.checkpoint import digest as file_digest
from artimuse_actor.checkpoint.bucket import BucketCheckpoint
from artimuse_actor.checkpoint.checkpoint import SINGLE_FILE, Checkpoint
from artimuse_actor.checkpoint.names import identify_checkpoint, open_checkpoint
from artimuse_actor.errors import CheckpointError

pytestmark = pytest.mark.timeout(60)

DIGEST = Checkpoint(golden_checkpoint("artimuse")).digest


@pytest.fixture(scope="module")
def server(s3_endpoint: str) -> Iterator[FaultProxy]:
    """A proxy in front of a real server, which counts requests and makes faults."""
    with running_proxy(s3_endpoint) as proxy:
        yield proxy


@pytest.fixture
def bucket(server: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """An empty bucket, and a node that has fetched nothing yet."""
    server.reset()
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    name = tmp_path.name.replace("_", "-").lower()[:40].strip("-")
    fsspec.filesystem("s3").mkdir(name)
    yield Bucket(server, name)
    fsspec.get_filesystem_class("s3").clear_instance_cache()


class Bucket:
    """Where checkpoints are put, and what was asked of them."""

    def __init__(self, server: FaultProxy, name: str) -> None:
        self.server, self.name = server, name

    def put(self, folder: Path, prefix: str = "models/ArtiMuse") -> str:
        """Upload the files of a folder; returns its uri."""
        self.put_files({path.name: path.read_bytes() for path in folder.iterdir()}, prefix)
        self.server.requests.clear()
        return f"s3://{self.name}/{prefix}"

    def put_files(self, files: dict[str, bytes], prefix: str = "models/ArtiMuse") -> None:
        s3 = fsspec.filesystem("s3")
        for name, data in files.items():
            s3.pipe_file(f"{self.name}/{prefix}/{name}", data)

    def fail(self, file: str, *faults: Fault, prefix: str = "models/ArtiMuse") -> None:
        self.server.fail(f"/{self.name}/{prefix}/{file}", *faults)

    def reads(self, file: str = SINGLE_FILE) -> int:
        """Number of requests for a file."""
        return sum(path.endswith(f"/{file}") for path in self.server.requests)


def copies(tmp_path: Path) -> list[str]:
    folder = tmp_path / "cache" / "checkpoints"
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.exists() else []


def text_of_error(name: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_on_s3_is_the_checkpoint_that_it_is_on_a_disk(
    bucket: Bucket, models: dict[str, ArtiMuse], tmp_path: Path
) -> None:
    uri = bucket.put(golden_checkpoint("unipercept"), "some models/UniPercept+1 é")
    model = ArtiMuse.load(uri)
    assert (model.checkpoint.name, model.checkpoint.source) == ("UniPercept+1 é", uri)
    assert model.protocol.name == "unipercept"
    assert model.checkpoint.digest == Checkpoint(golden_checkpoint("unipercept")).digest
    picture = golden_images()[0]
    assert model.score(picture).scores == pytest.approx(models["unipercept"].score(picture).scores, abs=1e-4)
    assert len(copies(tmp_path)) == 1


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_protocol_is_guessed_from_the_uri_and_its_last_part_decides(bucket: Bucket, slash: str) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"), "unipercept/ArtiMuse_AVA")
    assert identify_checkpoint(uri + slash, fetch=False).name == "ArtiMuse_AVA"
    assert ArtiMuse.load(uri + slash).protocol.name == "artimuse"


def test_a_sharded_checkpoint_is_fetched_in_parts_and_whole(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_checkpoint, "_PART_BYTES", 100_000)
    folder = copy_checkpoint(tmp_path / "sharded")
    split_into_shards(folder, 3)
    uri = bucket.put(folder)
    found = open_checkpoint(uri)
    assert found.digest == Checkpoint(folder).digest
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_only_data_files_of_the_folder_itself_are_fetched(bucket: Bucket) -> None:
    bucket.put_files({"model.safetensors": b"another model"}, "models/ArtiMuse/onnx")
    bucket.put_files({"model.safetensors": b"another model"}, "models/ArtiMuse2")
    extras = {"modeling_artimuse.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04pickle", "README.md": b"# A"}
    bucket.put_files(extras)
    found = open_checkpoint(bucket.put(golden_checkpoint("artimuse")))
    assert found.digest == DIGEST
    assert {path.name for path in found.folder.iterdir()} == {
        path.name for path in golden_checkpoint("artimuse").iterdir()
    }
    assert all(bucket.reads(name) == 0 for name in extras)


def test_what_is_there_is_not_fetched_again_and_a_changed_folder_is(bucket: Bucket, tmp_path: Path) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"))
    open_checkpoint(uri)
    bucket.server.requests.clear()
    assert open_checkpoint(uri).digest == DIGEST
    assert len(bucket.server.requests) == 1  # the listing
    bucket.put(golden_checkpoint("unipercept"))
    assert open_checkpoint(uri).digest == Checkpoint(golden_checkpoint("unipercept")).digest
    assert len(copies(tmp_path)) == 2  # the old one stays


# One for a node

PROGRAM = (
    "import sys; from artimuse_actor.checkpoint.names import open_checkpoint; "
    "print(open_checkpoint(sys.argv[1]).digest)"
)


def open_in_processes(name: str, count: int, **environment: str) -> list[str]:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, name], stdout=subprocess.PIPE, text=True,
            cwd=REPO, env={**os.environ, **environment},
        )
        for _ in range(count)
    ]  # fmt: skip
    return [process.communicate(timeout=50)[0].strip() for process in processes]


@pytest.mark.process
def test_processes_of_a_node_that_start_together_fetch_once(bucket: Bucket) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"))
    bucket.server.latency_s = 0.3
    assert open_in_processes(uri, 3) == [DIGEST] * 3
    # Each may read the header, in two steps, before one of them fetches the file.
    assert bucket.reads() <= 2 * 3 + 1


def test_threads_that_start_together_fetch_once(bucket: Bucket) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"))
    bucket.server.latency_s = 0.1
    with ThreadPoolExecutor(3) as pool:
        assert {found.digest for found in pool.map(open_checkpoint, [uri] * 3)} == {DIGEST}
    assert bucket.reads() <= 2 * 3 + 1


def test_a_fetch_that_was_killed_is_taken_up_by_the_next_and_whole_files_are_kept(
    bucket: Bucket, tmp_path: Path
) -> None:
    folder = copy_checkpoint(tmp_path / "sharded")
    first, second = split_into_shards(folder, 2)
    uri = bucket.put(folder)
    bucket.fail(second.name, as_it_is, as_it_is, stall)  # its header is read twice
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, uri], cwd=REPO)
    partial = tmp_path / "cache" / "checkpoints"
    while process.poll() is None and not list(partial.glob(f"*.partial/{first.name}")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert copies(tmp_path)[0].endswith(".partial")
    bucket.server.reset()
    assert open_checkpoint(uri).digest == Checkpoint(folder).digest
    assert bucket.reads(first.name) == 2  # its header, and nothing else
    assert [name.endswith(".partial") for name in copies(tmp_path)] == [False]


# Faults


@pytest.mark.parametrize("fault", [cut, drop, reset, refuse(503, "SlowDown"), refuse(500, "InternalError")])
def test_broken_connections_and_a_busy_server_are_tried_again(bucket: Bucket, fault: Fault) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"))
    bucket.fail(SINGLE_FILE, fault, as_it_is, fault, as_it_is, fault)
    assert open_checkpoint(uri).digest == DIGEST


def test_a_fetch_that_fails_is_a_sentence_and_the_next_run_goes_on(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_checkpoint, "_OPTIONS", replace(bucket_checkpoint._OPTIONS, first_wait_s=0.01))
    uri = bucket.put(golden_checkpoint("artimuse"))
    bucket.fail(SINGLE_FILE, as_it_is, as_it_is, *[refuse(500, "InternalError")] * 6)
    message = text_of_error(uri)
    assert message.startswith(f"{uri}/{SINGLE_FILE}: 500 InternalError: As the test wants it; tried 6 times")
    assert message.endswith("then run again; files that are whole are kept.")
    assert [name.endswith(".partial") for name in copies(tmp_path)] == [True]
    assert open_checkpoint(uri).digest == DIGEST


def test_a_file_that_changes_while_it_is_fetched_is_not_mixed(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_checkpoint, "_OPTIONS", replace(bucket_checkpoint._OPTIONS, first_wait_s=0.01))
    uri = bucket.put(golden_checkpoint("artimuse"))
    found = BucketCheckpoint.find(uri)
    other = bytearray((golden_checkpoint("artimuse") / SINGLE_FILE).read_bytes())
    other[-1] ^= 0x55
    bucket.put_files({SINGLE_FILE: bytes(other)})
    with pytest.raises(CheckpointError, match=r"model\.safetensors: The object has changed meanwhile\."):
        found.open()
    assert open_checkpoint(uri).digest != DIGEST


def test_a_bad_folder_is_refused_before_its_weights_are_fetched(bucket: Bucket, tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "bad")
    change_config(folder, language={"hidden_size": 128})
    uri = bucket.put(folder)
    message = text_of_error(uri)
    assert f"{uri}/{SINGLE_FILE}: tensor" in message
    assert str(tmp_path) not in message
    assert bucket.reads() == 2
    assert copies(tmp_path) == []
    bucket.put(copy_checkpoint(tmp_path / "good"), "short")
    bucket.put_files({SINGLE_FILE: (folder / SINGLE_FILE).read_bytes()[:-1000]}, "short")
    assert f"s3://{bucket.name}/short/{SINGLE_FILE}: is cut short" in text_of_error(f"s3://{bucket.name}/short")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("s3://{bucket}/nothing", "holds no checkpoint. Name the folder that holds config.json"),
        ("s3://{bucket}", "holds no checkpoint."),
        ("s3://{bucket}-not/models", "There is no bucket"),
        ("s3://", "names no bucket. Write s3://bucket/folder."),
        ("s3:///models", "names no bucket."),
    ],
)
def test_a_folder_that_is_not_there_is_a_sentence(bucket: Bucket, uri: str, message: str) -> None:
    assert message in text_of_error(uri.format(bucket=bucket.name))


def test_no_permission_and_no_credentials_are_sentences(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"))
    bucket.server.fail("*", refuse(403, "AccessDenied"))
    message = text_of_error(uri)
    assert message.startswith(f"{uri}: Reading ")
    assert "AccessDenied" in message
    assert "Check the name, AWS_ENDPOINT_URL and the permissions" in message
    bucket.server.fail("*", refuse(403, "InvalidAccessKeyId"))
    assert "S3 does not accept the credentials" in text_of_error(uri)


def test_a_small_disk_is_a_sentence_before_anything_is_fetched(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    message = text_of_error(uri)
    assert "0.0 GB are free. Delete old copies beside it, or set ARTIMUSE_CACHE" in message


def test_a_cache_that_cannot_be_written_is_a_sentence(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"))
    (tmp_path / "file").write_text("in the way of the folder")
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path / "file"))
    assert "cannot be copied to" in text_of_error(uri)
    assert identify_checkpoint(uri, fetch=False).digest == DIGEST


# A node that only plans


def test_the_digest_alone_is_read_without_a_copy_and_remembered(bucket: Bucket, tmp_path: Path) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"))
    found = identify_checkpoint(uri, fetch=False)
    assert (found.name, found.source, found.digest) == ("ArtiMuse", uri, DIGEST)
    assert copies(tmp_path) == []
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) < 1000
    before = bucket.reads()
    assert identify_checkpoint(uri, fetch=False).digest == DIGEST
    assert bucket.reads() == before + 2  # its header
    bucket.put(golden_checkpoint("unipercept"))
    assert identify_checkpoint(uri, fetch=False).digest == Checkpoint(golden_checkpoint("unipercept")).digest


def test_the_system_message_is_known_without_a_copy(bucket: Bucket, tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "with-message")
    change_config(folder, system_message="Be strict.")
    found = identify_checkpoint(bucket.put(folder), fetch=False)
    assert found.system_message == "Be strict."
    assert copies(tmp_path) == []


def _hash_small_file(path: Path) -> str:
    assert path.name != SINGLE_FILE
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_copy_is_hashed_while_it_is_fetched_and_not_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_digest, "_REMEMBER_FROM_BYTES", 100_000)
    uri = bucket.put(golden_checkpoint("artimuse"))
    found = open_checkpoint(uri)
    with monkeypatch.context() as patch:
        patch.setattr(file_digest, "_hash_file", _hash_small_file)
        assert found.digest == DIGEST
    before = bucket.reads()
    shutil.rmtree(found.folder)
    assert identify_checkpoint(uri, fetch=False).digest == DIGEST
    assert bucket.reads() == before + 2


def test_checkpoints_on_s3_need_neither_ray_nor_pyarrow_nor_torch(bucket: Bucket) -> None:
    uri = bucket.put(golden_checkpoint("artimuse"))
    program = PROGRAM + "; sys.exit(any(name in sys.modules for name in ('ray', 'pyarrow', 'torch', 'jobs')))"
    done = subprocess.run([sys.executable, "-c", program, uri], cwd=REPO, timeout=30, check=False)
    assert done.returncode == 0
