"""Small runs, which do their steps in the driver's process, without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.decoder_faults import faulty, make_fault_folder
from support.golden import golden_checkpoint
from support.photo_library import make_photos
from support.score_job import golden_options, run_artimuse, run_score, table_rows

from artimuse_actor.errors import UsageError
from jobs.score.actor_pool import ActorPool
from jobs.score.in_process import MOST_IMAGES, fits_here, in_process
from jobs.score.settings import ScoreSettings

pytestmark = pytest.mark.timeout(120)


@pytest.mark.process
def test_a_few_pictures_are_scored_without_ray(tmp_path: Path) -> None:
    names = make_photos(tmp_path / "photos", 5)
    program = (
        "import sys; sys.argv[0] = 'artimuse'\n"
        "from jobs.__main__ import main\n"
        "try: sys.exit(main())\n"
        "finally: print('ray' in sys.modules)\n"
    )
    arguments = ["score", tmp_path / "photos", "--out", tmp_path / "out", *golden_options()]
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    assert sorted(table_rows(tmp_path / "out")) == names


@pytest.mark.process
def test_pictures_that_kill_their_decoder_are_rows_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = make_photos(tmp_path / "photos", 12)
    for name, fault in (("0003.jpg", "SEGFAULT"), ("0007.jpg", "SEGFAULT ONCE"), ("0009.jpg", "KILLED")):
        (tmp_path / "photos" / name).write_bytes(faulty(fault))
    for variable, value in make_fault_folder(tmp_path / "faults").items():
        monkeypatch.setenv(variable, value)
    run_score(tmp_path / "photos", tmp_path / "out", "--unit-size", "4")
    rows = table_rows(tmp_path / "out")
    assert sorted(rows) == names
    failed = {name: row["error_type"] for name, row in rows.items() if row["status"] == "error"}
    assert failed == {"0003.jpg": "decoder_crashed", "0009.jpg": "decoder_memory"}


def test_large_runs_clusters_and_several_models_need_ray() -> None:
    settings = ScoreSettings("photos", "ArtiMuse", "out")
    assert fits_here(settings, MOST_IMAGES)
    assert not fits_here(settings, MOST_IMAGES + 1)
    assert not fits_here(ScoreSettings("photos", "ArtiMuse", "out", address="auto"), 1)
    assert not fits_here(ScoreSettings("photos", "ArtiMuse", "out", actors=ActorPool(1, 2)), 1)
    assert not fits_here(ScoreSettings("photos", "ArtiMuse", "out", local=False), 1)
    assert fits_here(ScoreSettings("photos", "ArtiMuse", "out", local=True), 10**6)


def test_one_process_and_a_cluster_are_refused_together(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="goes with neither --address nor --actors"):
        ScoreSettings("photos", "ArtiMuse", "out", actors=ActorPool(2, 2), local=True)
    options = ("--checkpoint", golden_checkpoint("artimuse"), "--local", "--address", "auto")
    done = run_artimuse("score", tmp_path, "--out", tmp_path / "out", *options, code=2)
    assert "--local is one model in this process" in done.stderr


@pytest.mark.parametrize(
    ("is_apple", "capability", "device", "dtype"),
    [(True, None, "mps", "float32"), (False, (7, 5), "cuda", "float32"), (False, (9, 0), "cuda", "bfloat16")],
)
def test_a_run_without_ray_takes_the_gpu_of_this_machine(
    is_apple: bool, capability: tuple[int, int] | None, device: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: is_apple)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not is_apple)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(not is_apple))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    with in_process() as machine:
        assert (machine.gpus, machine.device("auto"), machine.auto_dtype(device)) == (1, device, dtype)
        assert machine.device(device) == device
        assert machine.auto_dtype("cpu") == "float32"


def test_a_run_without_ray_and_without_a_gpu_takes_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with in_process() as machine:
        assert (machine.gpus, machine.device("auto")) == (0, "cpu")
