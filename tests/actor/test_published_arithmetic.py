"""`--published-arithmetic`: scores rounded as in the published code, and what else belongs to it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.golden import golden_checkpoint, golden_images
from support.score_job import golden_options, run_artimuse, run_score, table_rows
from torch.nn import functional

from artimuse_actor import ArtiMuse
from artimuse_actor.engine.read_prompts import answer_probabilities
from artimuse_actor.engine.scoring import scores_of
from artimuse_actor.images.decode import decode_image
from artimuse_actor.protocol.protocols import ARTIMUSE, UNIPERCEPT, AsPublished, as_published
from jobs.store.text_request import WantedTexts

LEVELS = torch.arange(101)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["artimuse", "unipercept"])
@torch.inference_mode()
def test_scores_are_rounded_where_the_published_code_rounds_them(name: str) -> None:
    model = ArtiMuse.load(
        golden_checkpoint(name), protocol=name, device="cpu", dtype="bfloat16", published_arithmetic=True
    )
    assert isinstance(model.protocol, AsPublished)
    weights = model.model.network.language_model.lm_head.weight
    hidden = torch.randn(6, 1, weights.shape[1], generator=torch.Generator().manual_seed(0)).bfloat16() * 3
    logits = functional.linear(hidden, weights)[..., model._level_ids]  # as the head of transformers
    if name == "artimuse":  # whose transformers casts them
        logits = logits.float()
    wanted = (torch.softmax(logits, -1) @ LEVELS.to(logits.dtype)).float().numpy()
    found = scores_of(answer_probabilities(model.model, hidden, model._level_ids, model.protocol.rounding))
    np.testing.assert_allclose(found.score, wanted, atol=1e-3)
    pixels = np.stack([decode_image(path.read_bytes()).pixels for path in golden_images()[3:6]])
    published = model.score_pixels(pixels).score
    ours = ArtiMuse.load(golden_checkpoint(name), protocol=name, device="cpu", dtype="bfloat16").score_pixels(pixels)
    assert 0 < np.abs(published - ours.score).max() < 1
    steps = torch.from_numpy(published)
    assert torch.equal(steps.bfloat16().float(), steps) is (name == "unipercept")
    described = model.describe([golden_images()[3]], max_new_tokens=1)[0]
    assert list(described.scores.values()) == pytest.approx(published[0].tolist(), abs=1)


def test_the_published_arithmetic_is_a_protocol_of_its_own_with_the_published_limits() -> None:
    for protocol, limit in ((ARTIMUSE, 8192), (UNIPERCEPT, 1024)):
        published = as_published(protocol)
        assert published.digest != protocol.digest
        assert published.prompt("?") == protocol.prompt("?")
        assert WantedTexts().settings(published).max_new_tokens == limit


@pytest.mark.process
def test_a_job_takes_truncated_files_and_keeps_to_its_own_stores(tmp_path: Path) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    data = golden_images()[1].read_bytes()
    (folder / "cut.jpg").write_bytes(data[: len(data) // 2])
    (folder / "whole.jpg").write_bytes(data)
    run_score(folder, out, "--published-arithmetic", protocol="unipercept")
    assert {row["status"] for row in table_rows(out).values()} == {"ok"}
    assert "(unipercept+published-arithmetic@" in run_artimuse("status", out).stdout
    refused = run_artimuse("score", folder, "--out", out, *golden_options("unipercept"), "--local", code=1).stderr
    assert "this run is checkpoint@" in refused
    (tmp_path / "truth.json").write_text(json.dumps([{"image": "whole.jpg", "gt_score": 3}]))
    results = tmp_path / "results.json"
    run_artimuse("evaluate", out, "--ground-truth", tmp_path / "truth.json", "--results", results)
    assert json.loads(results.read_text())[0]["gt_score"] == 3  # as UniPercept's script writes it
    (tmp_path / "own.toml").write_text('name = "own"\n[texts]\nA = "What?"\n')
    options = ("--checkpoint", golden_checkpoint("artimuse"), "--protocol", tmp_path / "own.toml")
    refused = run_artimuse("image", golden_images()[0], *options, "--published-arithmetic", code=2).stderr
    assert "--published-arithmetic is about the protocols artimuse and unipercept; own is not published." in refused
