from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from support.golden import golden_checkpoint, golden_images
from support.score_job import run_score, table_rows

from artimuse_actor import ArtiMuseError, UniPerceptReward


@pytest.mark.process
def test_rewards_are_the_scores_of_a_job_and_none_where_it_has_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in golden_images()[3:6]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    run_score(folder, tmp_path / "out", protocol="unipercept")
    rows = table_rows(tmp_path / "out")
    scorer = UniPerceptReward(golden_checkpoint("unipercept"), "cpu", torch.float32, batch_size=2)
    with caplog.at_level(logging.WARNING):
        rewards = scorer.reward(f"{folder}/{name}" for name in (*rows, "gone.png"))
    assert len(rewards) == len(rows) + 1 == 5
    for row, reward in zip(rows.values(), rewards, strict=False):
        wanted = {name: row[name] for name in ("iaa", "iqa", "ista")}
        assert reward == (pytest.approx(wanted, abs=1e-3) if row["status"] == "ok" else None)
    assert rewards.count(None) == 2
    assert [record.message.split("/")[-1] for record in caplog.records][-1] == "gone.png: There is no such file."
    assert scorer.reward([]) == []
    with pytest.raises(ArtiMuseError, match=r"takes a list of paths: write \['one.png'\]"):
        scorer.reward("one.png")
