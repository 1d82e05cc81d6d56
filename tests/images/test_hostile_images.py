"""Files that want to exhaust or kill what reads them, alone and in a job."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.decoder_faults import faulty, make_fault_folder, model_loads, stumbles
from support.golden import golden_checkpoint
from support.hostile_pictures import HOSTILE
from support.photo_library import make_photos
from support.score_job import run_score, table_rows

from artimuse_actor.errors import ImageError
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.options import DecodeOptions


@pytest.fixture(scope="module")
def child() -> Iterator[ChildDecoder]:
    # None of the files may take more; that a limit was reached would be another outcome.
    with ChildDecoder(DecodeOptions(decoder_timeout_s=20, decoder_memory_bytes=512 * 1024**2)) as child:
        yield child


@pytest.mark.process
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(120)
def test_a_hostile_file_costs_little_and_is_called_by_its_name(name: str, child: ChildDecoder) -> None:
    make, expected = HOSTILE[name]
    data = make()
    if expected == "decoder_timeout":
        child = ChildDecoder(DecodeOptions(decoder_timeout_s=0.3))  # of minutes
    try:
        child.decode(data)
        outcome = "ok"
    except ImageError as error:
        outcome = error.error_type
    assert outcome == expected


@pytest.mark.process
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_pictures_that_kill_hang_or_starve_their_decoder_are_one_row_each_and_cost_no_model_load(
    tmp_path: Path,
) -> None:
    names = make_photos(tmp_path / "photos", 40)
    faults = {
        "0003.jpg": ("SEGFAULT", "decoder_crashed"),
        "0005.jpg": ("HOLD", "decoder_timeout"),  # two in one unit
        "0014.jpg": ("HOARD", "decoder_memory"),
        "0021.jpg": ("SLEEP", "decoder_timeout"),
        "0022.jpg": ("SEGFAULT ONCE", None),
        "0035.jpg": ("KILLED", "decoder_memory"),
    }
    for name, (fault, _) in faults.items():
        (tmp_path / "photos" / name).write_bytes(faulty(fault))
    driver = (
        "import sys; from jobs.score.run import score; from jobs.score.settings import *\n"
        "decode = DecodeOptions(decoder_timeout_s=2, decoder_memory_bytes=2**28, max_bytes=2**26)\n"
        "score(ScoreSettings(*sys.argv[1:4], protocol='artimuse', unit_size=10, decode=decode, local=False))\n"
    )
    folders = (tmp_path / "photos", golden_checkpoint("artimuse"), tmp_path / "out")
    done = subprocess.run(
        list(map(str, [sys.executable, "-c", driver, *folders])),
        env={**os.environ, **make_fault_folder(tmp_path / "faults")},
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    run_score(tmp_path / "photos", tmp_path / "plain")
    plain, rows = table_rows(tmp_path / "plain"), table_rows(tmp_path / "out")
    assert sorted(rows) == names
    same = ("status", "error_type", "width", "height", "format", "sha256", "phash")
    for name in names:
        _, error_type = faults.get(name, ("", None))
        if error_type:
            assert (rows[name]["status"], rows[name]["error_type"]) == ("error", error_type)
            assert rows[name]["error_message"]
            assert rows[name]["sha256"] == plain[name]["sha256"]
        else:
            assert {key: rows[name][key] for key in same} == {key: plain[name][key] for key in same}
            assert rows[name]["score"] == pytest.approx(plain[name]["score"], abs=1e-3)
    # Nothing is tried more often than this, and the first time is without a child.
    assert stumbles(tmp_path / "faults") == {
        "SEGFAULT in task": 1,
        "SEGFAULT in child": 2,
        "HOLD in child": 2,
        "HOARD in task": 1,
        "HOARD in child": 1,
        "SLEEP in task": 1,
        "SLEEP in child": 2,
        "SEGFAULT ONCE in child": 2,
        "KILLED in task": 1,
        "KILLED in child": 2,
    }
    assert model_loads(tmp_path / "faults") == 1
    assert not [path for path in (tmp_path / "out" / "_runs").glob("*/attempts/*/*") if path.is_file()]
