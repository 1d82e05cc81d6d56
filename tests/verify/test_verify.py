"""A right device passes, a wrong one is found out in every precision, and an actor on it does not start."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from support.golden import golden_checkpoint
from support.score_job import run_artimuse
from torch.nn import functional

from artimuse_actor.actor import ArtiMuseActor
from artimuse_actor.actor_config import ActorConfig
from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.checkpoint.network_config import QUANTIZATIONS
from artimuse_actor.engine import device as device_module
from artimuse_actor.engine.choose_pages import candidate_pages
from artimuse_actor.engine.kv_cache import PagedKVCache
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.errors import ArtiMuseError, RunError, UsageError
from artimuse_actor.protocol.protocols import ARTIMUSE
from artimuse_actor.verify import golden_checks, own_checks, self_check, speed, verify
from artimuse_actor.verify.finding import Finding, exit_code
from artimuse_actor.verify.golden import golden_pixels, quantised_answers
from artimuse_actor.verify.own_checks import own_findings
from jobs.commands.verify import overall

CPU = torch.device("cpu")
GPUS = range(torch.cuda.device_count())
DEVICES = ["cpu", *(pytest.param(f"cuda:{number}", marks=pytest.mark.gpu) for number in GPUS)]
HALF = (torch.bfloat16, torch.float16)
sdpa = functional.scaled_dot_product_attention


def aligned_to_the_upper_left(queries: torch.Tensor, keys: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
    """A mask for T new of P + T tokens, as ROCm's kernel once read it."""
    if options.get("attn_mask") is not None:
        new, all_tokens = queries.shape[2], keys.shape[2]
        options["attn_mask"] = torch.full((new, all_tokens), -torch.inf, dtype=queries.dtype).triu(1)
    return sdpa(queries, keys, *rest, **options)


def without_a_mask(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, **options: Any) -> torch.Tensor:
    return sdpa(queries, keys, values, enable_gqa=options.get("enable_gqa", False))


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two pictures instead of all."""
    pixels = golden_pixels()[:2]
    for module in (own_checks, speed):
        monkeypatch.setattr(module, "golden_pixels", lambda: pixels)
    monkeypatch.setattr(own_checks, "_MAX_NEW_TOKENS", 6)
    monkeypatch.setattr(own_checks, "_DESCRIBED", 1)
    monkeypatch.setattr(speed, "_MATRIX_SIZES", {"cpu": 64})
    monkeypatch.setattr(speed, "_ROUNDS", 1)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_the_command_finds_this_machine_right_and_says_so_to_scripts(device: str) -> None:
    told = json.loads(run_artimuse("verify", "--device", device, "--dtype", "float32", "--json").stdout)
    assert (told["device"], told["verdict"], told["speed"]) == (device, "ok", [])
    assert device != "cpu" or told["processor"] == "CPU"
    assert told["torch"] == torch.__version__
    pixels, *answers = told["checks"]
    assert (pixels["check"], pixels["verdict"]) == ("pixels of the golden pictures", "ok")
    attentions = [pages.__name__ for pages in candidate_pages(torch.device(device), torch.float32)]
    names = ("golden scores, artimuse", "golden scores, unipercept", "golden texts, artimuse")
    found = [(check["check"], check["attention"], check["verdict"]) for check in answers]
    assert found == [(name, attention, "ok") for attention in attentions for name in names]
    assert all(check["points"] < 1e-3 for check in answers if "scores" in check["check"])
    assert all(check["equal_texts"] == 8 for check in answers if "texts" in check["check"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALF)
def test_rounding_is_a_drift_and_no_mistake(dtype: torch.dtype) -> None:
    scores = golden_checks.golden_scores("unipercept", CPU, dtype, images=2)
    texts = golden_checks.golden_texts(CPU, dtype, images=1)
    assert scores.verdict.startswith("drift")
    assert texts.equal_texts < 8
    assert texts.verdict == f"drift {8 - texts.equal_texts} of 8 texts"
    assert exit_code([scores, texts]) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", [aligned_to_the_upper_left, without_a_mask])
def test_a_wrong_attention_is_found_out(attention: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "scaled_dot_product_attention", attention)
    for protocol in ("artimuse", "unipercept"):
        finding = golden_checks.golden_scores(protocol, CPU, dtype, images=1)
        assert finding.verdict == "wrong"
        assert exit_code([finding]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decode_steps_that_see_no_new_token_are_found_out(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PagedKVCache, "write", lambda *_: None)
    assert golden_checks.golden_texts(CPU, dtype, images=1).verdict == "wrong"


def test_the_command_ends_with_1_if_anything_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding("golden scores, artimuse", "float32", "sdpa", points=12.3, error=0.7),
        Finding("golden texts, artimuse", "bfloat16", "sdpa", skipped="bfloat16 is not implemented"),
    ]
    monkeypatch.setattr(verify, "verify", lambda **_: iter(findings))
    screen = run_artimuse("verify", "--device", "cpu", code=1).stdout.splitlines()
    assert screen[3].split() == ["golden", "scores,", "artimuse", "float32", "sdpa", "12.3000", "wrong"]
    assert screen[4].endswith("skipped: bfloat16 is not implemented")
    assert screen[-1] == "CPU: wrong: golden scores, artimuse (float32)."


@pytest.mark.parametrize(
    ("finding", "verdict"),
    [
        (Finding("a", "float32", points=0.009, error=1e-6), "ok"),
        (Finding("a", "bfloat16", points=0.123, error=0.01), "drift 0.12 points"),
        (Finding("a", "bfloat16", points=0.123, error=0.3), "wrong"),
        (Finding("a", "float32", points=0.5, error=0.01), "wrong"),
        (Finding("a", "float16", points=math.nan, error=math.nan), "wrong"),
        (Finding("a", "float32", texts=8, equal_texts=8), "ok"),
        (Finding("a", "bfloat16", texts=8, equal_texts=5, regret=0.4), "drift 3 of 8 texts"),
        (Finding("a", "bfloat16", texts=8, equal_texts=5, regret=3.0), "wrong"),
        (Finding("a", "uint8", error=0.2), "wrong"),
        (Finding("a", "bfloat16", skipped="no room"), "skipped"),
    ],
)
def test_a_verdict_says_what_rounding_cannot_explain(finding: Finding, verdict: str) -> None:
    assert finding.verdict == verdict
    assert json.loads(json.dumps(finding.to_json()))["verdict"] == verdict


def test_the_last_line_is_about_the_users_weights_if_they_were_checked() -> None:
    golden = Finding("golden scores, artimuse", "bfloat16", points=2.5, error=0.05)
    own = Finding("fast scores beside the slow forward's", "bfloat16", points=0.25, error=0.01)
    assert overall([golden]) == "ok; bfloat16 drifts by 2.50 points at most, with random weights"
    assert overall([golden, own]) == "ok; bfloat16 drifts by 0.25 points at most"
    nf4 = Finding("nf4 beside all bits", "bfloat16/nf4", points=1.31, error=0.2, srcc=0.997)
    assert overall([golden, own, nf4]).endswith("0.25 points at most; bfloat16/nf4 drifts by 1.31 points on average")


@pytest.mark.slow
def test_a_checkpoint_is_compared_with_the_slow_forward_and_with_itself(few_pictures: None) -> None:
    checkpoint = Checkpoint(golden_checkpoint("artimuse"))
    speed_of_float32, *findings = own_findings(checkpoint, ARTIMUSE, CPU, (torch.float32,))
    assert isinstance(speed_of_float32, speed.Speed)
    assert speed_of_float32.flop_per_image > 1e8
    assert speed_of_float32.peak_share > 0  # above 1 where another process had the cores while the peak was measured
    assert [(one.check, one.verdict) for one in findings if isinstance(one, Finding)] == [
        ("batch 1 beside batch 2", "ok"),
        ("fast scores beside the slow forward's", "ok"),
        ("fast texts beside the slow forward's choices", "ok"),
        ("texts alone beside texts together", "ok"),
    ]


@pytest.mark.slow
def test_a_checkpoint_and_fewer_bits_are_checked_after_the_device(
    few_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = golden_pixels()
    monkeypatch.setattr(verify, "golden_findings", lambda *_, **__: iter(()))
    monkeypatch.setattr(verify, "golden_pixels", lambda: pixels[:2])
    options: dict[str, Any] = {"device": "cpu", "dtype": "float32", "checkpoint": str(golden_checkpoint("artimuse"))}
    found = list(verify.verify(**options, protocol="artimuse", quantize="int8", pictures=pixels[2:3]))
    checks = [one.check for one in found if isinstance(one, Finding)]
    assert checks[:3] == [
        "pixels of the golden pictures", "batch 1 beside batch 2", "fast scores beside the slow forward's"
    ]  # fmt: skip
    assert checks[-1] == "int8 beside all bits, 3 pictures"
    assert all(one.verdict.startswith(("ok", "drift")) for one in found if isinstance(one, Finding))
    with pytest.raises(UsageError, match="--quantize takes int8, fp8, fp8-products, nf4"):
        list(verify.verify(**options, quantize="int3"))


@pytest.mark.slow
def test_what_does_not_fit_in_another_precision_is_skipped(few_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(golden_checkpoint("unipercept"))
    monkeypatch.setattr(device_module, "available_bytes", lambda: 2_000_000)
    found = list(own_findings(checkpoint, ARTIMUSE, CPU, (torch.bfloat16, torch.float32)))
    assert isinstance(found[-1], Finding)
    assert found[-1].verdict == "skipped"
    assert "takes 0 GB of memory as float32" in found[-1].skipped
    with pytest.raises(RunError, match="as float32"):
        list(own_findings(checkpoint, ARTIMUSE, CPU, (torch.float32, torch.bfloat16)))


class Starts:
    def __init__(self) -> None:
        self.failures: list[ArtiMuseError] = []

    def begin(self) -> None:
        pass

    def end(self, *_: Any) -> None:
        raise AssertionError("a model was loaded")

    def fail(self, error: ArtiMuseError) -> None:
        self.failures.append(error)


def _on_cpu(check: Any, *arguments: Any, **options: Any) -> Finding:
    found: Finding = check(*(CPU if isinstance(one, torch.device) else one for one in arguments), **options)
    return found


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose arithmetic is that of the CPU."""
    monkeypatch.setattr(device_module, "resolve_device", lambda _: torch.device("cuda"))
    monkeypatch.setattr(self_check, "device_name", lambda _: "NVIDIA T9")
    for name in ("golden_scores", "golden_texts"):
        monkeypatch.setattr(self_check, name, partial(_on_cpu, getattr(golden_checks, name)))


def _config(starts: Starts) -> ActorConfig:
    checkpoint = Checkpoint(golden_checkpoint("artimuse"))
    return ActorConfig(
        str(checkpoint.folder), checkpoint.digest, ARTIMUSE, "cuda", "bfloat16", "auto", False, starts=starts
    )


def test_an_actor_on_a_gpu_that_answers_wrong_does_not_start(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = Starts()
    monkeypatch.setattr(functional, "scaled_dot_product_attention", aligned_to_the_upper_left)
    message = r"NVIDIA T9 \(cuda\) answers wrong in bfloat16 with GatheredPages: golden scores, artimuse, .* points off"
    with pytest.raises(RunError, match=message):
        ArtiMuseActor(_config(starts))
    assert len(starts.failures) == 1
    assert "No row was scored there." in starts.failures[0].message


@pytest.mark.slow
@pytest.mark.parametrize("texts", [False, True])
def test_a_right_gpu_passes_its_check(gpu: None, texts: bool) -> None:
    self_check.refuse_wrong_device(torch.device("cuda"), torch.bfloat16, texts=texts)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", QUANTIZATIONS)
def test_fewer_bits_are_checked_beside_the_same_weights_on_the_cpu(
    gpu: None, quantize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, texts = torch.device("cuda"), quantize in ("int8", "fp8-products")
    self_check.refuse_wrong_device(device, torch.bfloat16, texts=texts, quantize=quantize)
    finding = golden_checks.golden_scores("unipercept", CPU, torch.float32, images=1, quantize=quantize)
    assert (finding.verdict, finding.precision) == ("ok", f"float32/{quantize}")
    monkeypatch.setattr(functional, "scaled_dot_product_attention", aligned_to_the_upper_left)
    message = (
        rf"answers wrong in bfloat16/{quantize} .*, .* points off beside the CPU's. .* --quantize {quantize}` there"
    )
    with pytest.raises(RunError, match=message):
        self_check.refuse_wrong_device(device, torch.bfloat16, texts=False, quantize=quantize)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["nf4", "fp8-products"])
def test_decode_steps_that_see_no_new_token_are_found_out_with_fewer_bits(
    quantize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PagedKVCache, "write", lambda *_: None)
    assert golden_checks.golden_texts(CPU, torch.bfloat16, images=1, quantize=quantize).verdict == "wrong"


def test_an_actor_checks_the_device_with_the_weights_of_its_run(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    quantised_answers("artimuse", "nf4")  # of the CPU, which answers right
    monkeypatch.setattr(functional, "scaled_dot_product_attention", aligned_to_the_upper_left)
    with pytest.raises(RunError, match=r"NVIDIA T9 \(cuda\) answers wrong in bfloat16/nf4"):
        ArtiMuseActor(replace(_config(Starts()), quantize="nf4"))


@pytest.mark.slow
def test_the_command_checks_fewer_bits_without_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    def only_fewer_bits(
        device: torch.device, dtype: torch.dtype, pages: Any = None, quantize: str | None = None
    ) -> Iterator[Finding]:
        return golden_checks.golden_findings(device, dtype, pages, quantize) if quantize else iter(())

    monkeypatch.setattr(verify, "golden_findings", only_fewer_bits)
    options = ("--device", "cpu", "--dtype", "float32", "--quantize", "nf4")
    screen = run_artimuse("verify", *options).stdout.splitlines()
    assert [line.split() for line in screen[4:6]] == [
        ["golden", "scores,", protocol, "float32/nf4", "GatheredPages", "0.0000", "ok"]
        for protocol in ("artimuse", "unipercept")
    ]
    assert screen[6].endswith("texts")  # those with fewer bits are others than the published code's
    assert screen[-1] == "CPU: ok."


def test_a_gpu_without_free_memory_is_not_said_to_answer_wrong(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(VisionLanguageModel, "encode_images", full)
    with pytest.raises(RunError, match="One image does not fit into the free memory"):
        self_check.refuse_wrong_device(torch.device("cuda"), torch.bfloat16, texts=False)


@pytest.mark.slow
def test_a_gpu_whose_texts_are_wrong_is_refused_where_texts_are_made(
    gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PagedKVCache, "write", lambda *_: None)
    self_check.refuse_wrong_device(torch.device("cuda"), torch.bfloat16, texts=False)
    with pytest.raises(RunError, match="golden texts, artimuse, other texts beside the published code's"):
        self_check.refuse_wrong_device(torch.device("cuda"), torch.bfloat16, texts=True)


def test_a_precision_that_the_device_lacks_is_skipped_unless_it_is_the_one_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_half(protocol: str, device: torch.device, dtype: torch.dtype, *_: Any, **__: Any) -> Finding:
        if dtype in HALF:
            raise TypeError("BFloat16 is not supported on MPS")
        return Finding(f"golden scores, {protocol}", "float32", points=0.0, error=0.0)

    monkeypatch.setattr(golden_checks, "golden_scores", no_half)
    monkeypatch.setattr(golden_checks, "golden_texts", lambda *_, **__: Finding("golden texts", "float32"))
    found = [one for one in verify.verify(device="cpu") if isinstance(one, Finding)]
    assert [one.verdict for one in found] == ["ok"] * 4 + ["skipped"] * 2
    with pytest.raises(RunError, match=r"cpu cannot compute in torch\.bfloat16: BFloat16 is not supported on MPS"):
        list(verify.verify(device="cpu", dtype="bfloat16"))
