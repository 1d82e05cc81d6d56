"""Commands on a disk without room: one sentence, and exit code 1."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.score_job import golden_options, run_artimuse
from support.scored_stores import write_store
from support.small_disk import fill, resize, small_disk


@pytest.mark.process
@pytest.mark.parametrize(
    "command", ["score", "compact", "merge", "export a.sqlite", "export a.duckdb", "report", "evaluate"]
)
def test_a_full_disk_is_one_sentence_that_names_the_place(tmp_path: Path, command: str) -> None:
    store, full = tmp_path / "scored", tmp_path / "full"
    write_store(store, [{"image_id": f"{n}.jpg", "score": float(n)} for n in range(2000)])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    truth = tmp_path / "truth.csv"
    truth.write_text("image_id,gt_score\n" + "".join(f"{n}.jpg,{n}\n" for n in range(50)))
    commands = {
        "score": ("score", tmp_path / "photos", "--out", full / "out", *golden_options(), "--local"),
        "compact": ("compact", store, "--out", full / "c"),
        "merge": ("merge", store, "--into", full / "m"),
        "report": ("report", store, "--out", full / "r.html"),
        "evaluate": ("evaluate", store, "--ground-truth", truth, "--results", full / "r.json"),
    }
    chosen = commands.get(command) or ("export", store, "--as", "sql", "--out", full / command.split()[1])
    with small_disk(full, "100k"):
        fill(full)
        done = run_artimuse(*chosen, code=1)
        (sentence,) = [line for line in done.stderr.splitlines() if "Error" in line]
        assert sentence.startswith("StoreError: ")
        assert f"{full}/" in sentence
        assert "not foreseen" not in done.stderr
        resize(full, "64m")
        run_artimuse(*chosen)
