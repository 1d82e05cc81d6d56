"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
from collections import defaultdict
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import matplotlib.font_manager  # noqa: F401 - now, since the first time on a machine it starts a process that lists fonts
import pytest
from hypothesis import HealthCheck, settings
from support import marks
from support.cloud_servers import CloudBucket, azure_environment, azurite, running_azure, running_google
from support.fault_proxy import FaultProxy
from support.golden import PROTOCOL_NAMES, golden_checkpoint
from support.loopback_hub import LoopbackHub
from support.ray_head import stop_ray_head
from support.s3_server import running_s3

from artimuse_actor.fetch.cloud import bucket_client

if TYPE_CHECKING:
    from artimuse_actor import ArtiMuse

# Before torch is first imported: its threads gain nothing on tiny networks and, on busy cores, spin for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers have a niceness of 15 otherwise: beside tests that compute they would wait for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")


# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

marks.watch()


def pytest_make_parametrize_id(val: object) -> str | None:
    """The id of a long parameter: an id of megabytes is sent to each worker, and stands in its environment."""
    return f"{type(val).__name__} of {len(val)}" if isinstance(val, str | bytes) and len(val) > 200 else None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups, which keep this order if it is told so
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add marks, and share the tests out: those with Ray first, then modules with slow ones.

    Ray takes more than a core while it starts, so two workers have all of its tests, and the others compute meanwhile.
    One of the two has the jobs that join a Ray head, so that only one head is started. All else goes by modules, the
    ones without Ray to the next free worker.
    """
    marks.mark_by_fixtures(items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.get_closest_marker("ray") is None, item.path not in slow))
    turns = cycle(("ray head", "ray"))
    turn_of: defaultdict[Path, str] = defaultdict(lambda: next(turns))
    for item in items:
        group = item.path.stem
        if item.get_closest_marker("ray"):
            group = turn_of[item.path] if item.get_closest_marker("process") else "ray head"
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Assert that pytest-xdist knows the groups, without which every worker starts a Ray head and all servers."""
    gc.freeze()  # what was imported and collected lives to the end: no need to look through it again and again
    if getattr(session.config.option, "loadgroup", False):
        lost = [
            item.nodeid for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid
        ]
        assert not lost, "This pytest-xdist loses its groups with this pytest; see pyproject.toml."


def pytest_unconfigure() -> None:
    gc.unfreeze()  # DuckDB's library calls what is left at the end leaked


def pytest_runtest_setup() -> None:
    marks.forget_what_was_started()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    result = yield
    marks.refuse_unmarked(item)
    return result


@pytest.fixture(scope="session")
def models() -> dict[str, ArtiMuse]:
    """Both golden checkpoints, loaded; tests leave `batch_size` as they found it."""
    from artimuse_actor import ArtiMuse

    return {name: ArtiMuse.load(golden_checkpoint(name), protocol=name) for name in PROTOCOL_NAMES}


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server on loopback; each module names buckets of its own."""
    from botocore import session  # type: ignore[import-untyped]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")  # it finds them here, and then refuses all others
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        server = ExitStack()
        endpoint = server.enter_context(running_s3(tmp_path_factory.mktemp("s3")))
    with server, pytest.MonkeyPatch.context() as patch:
        # Each test has clients of its own; the descriptions of AWS, megabytes of JSON, are read for the first alone.
        patch.setattr(session, "create_loader", cache(session.create_loader))
        yield endpoint


@pytest.fixture
def s3_environment(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The environment that names the server, for this process and for others."""
    environment = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    clients = fsspec.get_filesystem_class("s3")
    clients.clear_instance_cache()
    yield environment
    clients.clear_instance_cache()


@pytest.fixture(scope="session")
def google_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """An emulator of Google Cloud Storage on loopback."""
    with running_google(tmp_path_factory.mktemp("google") / "server.log") as server:
        yield server


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """An emulator of Azure on loopback, where Node.js and Azurite are installed."""
    if azurite() is None:
        pytest.skip("Azurite is not installed: `make azurite` does it, and needs npm")
    with running_azure(tmp_path_factory.mktemp("azure") / "server.log") as server:
        yield server


@pytest.fixture
def google(google_server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudBucket]:
    """An empty bucket of the emulator, which the environment names."""
    google_server.reset()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google_server.url)
    bucket_client.cache_clear()
    yield CloudBucket.make("gs", google_server)
    bucket_client.cache_clear()


@pytest.fixture
def azure(azure_server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudBucket]:
    """An empty container of the emulator, which the environment names."""
    azure_server.reset()
    for name, value in azure_environment(azure_server.url).items():
        monkeypatch.setenv(name, value)
    bucket_client.cache_clear()
    yield CloudBucket.make("az", azure_server)
    bucket_client.cache_clear()


@pytest.fixture(params=["gs", "az"])
def cloud(request: pytest.FixtureRequest) -> CloudBucket:
    """Each in turn."""
    bucket: CloudBucket = request.getfixturevalue({"gs": "google", "az": "azure"}[request.param])
    return bucket


@pytest.fixture(scope="session", autouse=True)
def _no_ray_head_is_left() -> Iterator[None]:
    yield
    stop_ray_head()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    # Digests of large files are remembered in the user's home otherwise.
    monkeypatch.setenv("ARTIMUSE_CACHE", str(tmp_path_factory.getbasetemp() / "artimuse-cache"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """An empty hub on loopback that `artimuse_actor.checkpoint.names` asks, with a download cache of its own."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with LoopbackHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
