"""A run's own Ray: what it consists of and keeps, who can use it, where it listens, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.score_job import descendants

from artimuse_actor.errors import RunError
from jobs.score import local_ray
from jobs.score.local_ray import local_environment, session_folder

OWN = """
import gc, sys
from jobs.score.ray_session import running_ray

class Same:
    def __call__(self, rows):
        return rows

with running_ray(None, 2**20):
    import ray.data

    rows = ray.data.range(40, override_num_blocks=20).map_batches(Same, batch_size=None, concurrency=1).iter_rows()
    for number, _ in enumerate(rows):
        if number == 39:
            statistics = [thing for thing in gc.get_objects() if type(thing).__name__ == "BlockStats"]
    actors = ray.util.list_named_actors(all_namespaces=True)
    print(number + 1, "rows", len(statistics), "statistics", len(actors), "actors", flush=True)
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""

UNUSED = ("monitor", "log_monitor", "dashboard")
"""Programs of Ray that it starts for a cluster or a dashboard."""

# Runs something as whoever started the Ray at this address.
SECOND_CLIENT = """
import os, sys
import ray

ray.init(address=sys.argv[1], log_to_driver=False)
print("ran as", ray.get(ray.remote(lambda: os.getuid()).remote(), timeout=60))
"""


def second_client(address: str, environment: dict[str, str]) -> str:
    """What a second client says, all in one, that tries to use a Ray."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    fast = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    done = subprocess.run(
        [sys.executable, "-c", SECOND_CLIENT, address],
        env=theirs | fast | environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def addresses_listened_on(pids: list[int]) -> set[str]:
    """Of TCP sockets of these processes, as the kernel writes them."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(os.readlink(entry))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.add(fields[1].partition(":")[0])
    return found


@pytest.mark.ray
@pytest.mark.process
@pytest.mark.timeout(200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_runs_own_ray_is_small_on_loopback_for_whoever_has_its_token_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with subprocess.Popen(
        [sys.executable, "-c", OWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment | {"RAY_TMPDIR": str(folder)},
    ) as run:  # fmt: skip
        assert run.stdout is not None
        assert run.stdout.readline() == "40 rows 0 statistics 0 actors\n"
        address = run.stdout.readline().strip()
        family = [run.pid, *descendants(run.pid)]
        commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in family]
        assert any("/gcs_server\0" in command for command in commands)
        assert not [name for command in commands for name in UNUSED if f"/{name}.py\0" in command]
        assert addresses_listened_on(family) == {"0100007F", "0000000000000000FFFF00000100007F"}
        (private,) = folder.iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
        assert [path.name[:8] for path in (private / "r").iterdir()].count("session_") == 2  # one is a link
        said = second_client(address, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64})
        assert "InvalidAuthToken" in said
        assert "ran as" not in said
        variables = Path(f"/proc/{family[1]}/environ").read_text().split("\0")
        token = dict(line.split("=", 1) for line in variables if line.startswith("RAY_AUTH_"))
        assert "ran as" in second_client(address, token)
    assert run.returncode == 0
    assert not list(folder.iterdir())


@pytest.fixture
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("_no_settings")
def test_each_run_has_a_token_of_its_own_and_takes_it_away() -> None:
    tokens = []
    for _ in range(2):
        with local_environment():
            assert os.environ["RAY_AUTH_MODE"] == "token"
            tokens.append(os.environ["RAY_AUTH_TOKEN"])
        assert not [name for name in os.environ if name.startswith("RAY_")]
    assert len(set(tokens)) == 2
    assert min(map(len, tokens)) == 64


@pytest.mark.usefixtures("_no_settings")
@pytest.mark.parametrize(
    ("own", "mode"),
    [
        ({"RAY_AUTH_MODE": "disabled"}, "disabled"),
        ({"RAY_AUTH_MODE": "token"}, "token"),
        ({"RAY_AUTH_TOKEN": "mine"}, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/home/me/token"}, "token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "mine", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}, "token"),
    ],
)
def test_the_users_own_settings_stay(own: dict[str, str], mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    with local_environment():
        assert os.environ["RAY_AUTH_MODE"] == mode
        assert {name: os.environ[name] for name in own} == own
        assert ("RAY_AUTH_TOKEN" in os.environ) == ("RAY_AUTH_TOKEN" in own)
    assert {name: value for name, value in os.environ.items() if name.startswith("RAY_")} == own


def test_a_session_folder_is_removed_by_its_run_and_a_killed_runs_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("ARTIMUSE_DEBUG", raising=False)
    for name in ("ray-others", "ray"):  # of other programs
        (tmp_path / name / "session_1").mkdir(parents=True)
    (tmp_path / "ray-killed" / "session_1" / "logs").mkdir(parents=True)
    (tmp_path / "ray-killed" / "artimuse.lock").touch()
    (tmp_path / "ray-link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "artimuse.lock").touch()
    monkeypatch.setattr(local_ray, "_LONGEST_FOLDER", 1000)
    with session_folder() as first, session_folder() as second:
        Path(first, "session_1").mkdir(parents=True)
        ours = {Path(first).parent, Path(second).parent}
        left = sorted(path.name for path in tmp_path.iterdir() if path not in ours)
        assert left == ["elsewhere", "ray", "ray-link", "ray-others"]
        assert (tmp_path / "elsewhere" / "artimuse.lock").exists()
        assert all(path.exists() for path in ours)
    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_somebody_elses_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray-theirs").mkdir()
    (tmp_path / "ray-theirs" / "artimuse.lock").touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        patch.setattr(local_ray, "_LONGEST_FOLDER", 1000)
        with session_folder():
            assert (tmp_path / "ray-theirs" / "artimuse.lock").exists()


@pytest.fixture
def _own_short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # In /tmp itself, runs of other tests may just be removing what this one looks for.
    with tempfile.TemporaryDirectory(prefix="t", dir=local_ray._SHORT_FOLDER) as folder:
        monkeypatch.setattr(local_ray, "_SHORT_FOLDER", folder)
        yield


@pytest.mark.usefixtures("_own_short_folder")
@pytest.mark.parametrize("variable", ["RAY_TMPDIR", "TMPDIR"])
def test_a_long_temporary_folder_is_reached_by_a_short_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    long = tmp_path / "scratch" / "of" / "job"
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("ARTIMUSE_DEBUG", raising=False)
    monkeypatch.setenv(variable, str(long))
    if variable == "TMPDIR":
        monkeypatch.setattr(tempfile, "gettempdir", lambda: str(long))
    with session_folder() as folder:
        assert len(f"{folder}/session_2026-11-26_22-26-10_225345_1234567/sockets/plasma_store") <= 107
        Path(folder, "session_1").mkdir()
        (private,) = long.glob("ray-*")
        assert (private / "r" / "session_1").is_dir()
        assert private.stat().st_mode & 0o777 == 0o700
    assert not list(long.glob("ray-*"))
    assert not Path(folder).parent.exists()
    with session_folder() as folder:  # this run is killed
        Path(folder).parent.rename(kept := Path(f"{Path(folder).parent}-killed"))
    with session_folder():
        assert len(list(long.glob("ray-*"))) == 1
        assert not kept.exists()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))
    with pytest.raises(RunError, match="Name another one by RAY_TMPDIR"), session_folder():
        pass
