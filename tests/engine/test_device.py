from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.golden import golden_checkpoint

from artimuse_actor import ArtiMuse, loaded_model
from artimuse_actor.checkpoint.network_config import NetworkConfig
from artimuse_actor.engine import device as device_module
from artimuse_actor.engine.attention import GatheredPages
from artimuse_actor.engine.choose_pages import candidate_pages
from artimuse_actor.engine.device import (
    CPU_BATCH_SIZE,
    device_name,
    probe_batch_size,
    resolve_device,
    resolve_dtype,
    set_arithmetic,
)
from artimuse_actor.engine.device_memory import limit_memory, memory_errors, release_memory
from artimuse_actor.errors import RunError, UsageError

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
GIB = 2**30


@pytest.fixture
def apple(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What torch says on an Apple machine; its memory is `free_bytes`."""
    machine = SimpleNamespace(recommended=24 * GIB, allocated=20 * GIB, emptied=0)

    def empty_cache() -> None:
        machine.emptied += 1

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M2 Max")
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: machine.recommended)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: machine.allocated)
    monkeypatch.setattr(torch.mps, "empty_cache", empty_cache)
    return machine


@pytest.fixture
def switches() -> Iterator[None]:
    """The switches of torch as they were before the test."""
    yield
    set_arithmetic(CPU)
    torch.backends.cuda.enable_cudnn_sdp(True)


@pytest.mark.parametrize(
    ("capability", "hip", "dtype"),
    [
        ((9, 0), None, torch.bfloat16),
        ((8, 0), None, torch.bfloat16),
        ((7, 5), None, torch.float32),
        ((7, 0), None, torch.float32),
        ((6, 1), "7.0", torch.bfloat16),
    ],
)
def test_auto_is_bfloat16_only_where_a_gpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert resolve_dtype("auto", CUDA) == dtype
    assert resolve_dtype("bfloat16", CUDA) == torch.bfloat16  # who asks for it gets it


def test_precision_and_attention_of_other_devices() -> None:
    assert resolve_device("cpu") == CPU
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_dtype("auto", CPU) == resolve_dtype("auto", MPS) == torch.float32
    assert resolve_dtype("float16", CPU) == torch.float16
    assert candidate_pages(CPU, torch.bfloat16) == candidate_pages(CUDA, torch.float32) == (GatheredPages,)


def _older_switches() -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def _one_switch() -> None:
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]


def _switches_of_operators() -> None:
    backends: Any = torch.backends
    backends.cudnn.conv.fp32_precision = backends.cuda.matmul.fp32_precision = "tf32"


@pytest.mark.parametrize("before", [_older_switches, _one_switch, _switches_of_operators])
def test_float32_is_float32_whatever_was_set_before(before: Callable[[], None], switches: None) -> None:
    before()
    set_arithmetic(CUDA)
    backends: Any = torch.backends
    parts = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    assert {part.fp32_precision for part in parts} == {"ieee"}
    assert not backends.cudnn.allow_tf32
    assert not backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_loading_sets_the_switches(switches: None) -> None:
    torch.backends.cudnn.allow_tf32 = True
    ArtiMuse.load(golden_checkpoint("artimuse"), device="cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.cudnn_sdp_enabled()  # a CPU has no use for it
    set_arithmetic(CUDA)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_auto_takes_the_gpu_of_an_apple_machine(apple: SimpleNamespace) -> None:
    assert resolve_device("auto") == resolve_device("mps") == MPS
    assert device_name(MPS) == "Apple M2 Max"


def test_an_apple_machine_has_its_own_memory_limit(apple: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = NetworkConfig.from_file(golden_checkpoint("artimuse") / "config.json")
    roomy = probe_batch_size(tiny, 500, MPS, torch.float32)
    apple.allocated = apple.recommended - 20 * 2**20
    assert 1 <= probe_batch_size(tiny, 500, MPS, torch.float32) < roomy
    assert probe_batch_size(tiny, 500, CPU, torch.float32) == CPU_BATCH_SIZE
    apple.allocated = apple.recommended
    message = r"checkpoint takes 0 GB of memory as float32, and 0 GB are free. Stop what .*, or --dtype bfloat16"
    with pytest.raises(RunError, match=message):
        ArtiMuse.load(golden_checkpoint("artimuse"), device="mps")


def test_an_apple_machine_runs_out_of_memory_before_it_swaps(
    apple: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch's own limit is 1.7 times what Metal recommends, more than the machine has.
    fractions: list[float] = []
    monkeypatch.setattr(torch.mps, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.delenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", raising=False)

    def no_room(*_: object, **__: object) -> None:
        assert fractions
        raise RuntimeError("MPS backend out of memory (MPS allocated: 18.0 GiB, max allowed: 18.1 GiB).")

    monkeypatch.setattr(loaded_model, "load_network", no_room)
    with pytest.raises(RunError, match="does not fit into the free memory of mps"):
        ArtiMuse.load(golden_checkpoint("artimuse"), device="mps")
    assert fractions == [1.0]
    limit_memory(CPU)
    limit_memory(CUDA)
    monkeypatch.setenv("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "1.4")
    limit_memory(MPS)
    assert fractions == [1.0]


def test_out_of_memory_of_mps_is_out_of_memory(apple: SimpleNamespace) -> None:
    said = "MPS backend out of memory (MPS allocated: 17.98 GiB, other allocations: 56.13 MiB, max allowed: 18.13 GiB)."
    with pytest.raises(torch.OutOfMemoryError, match="other allocations"), memory_errors():
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="a bug") as caught, memory_errors():
        raise RuntimeError("a bug")
    assert not isinstance(caught.value, torch.OutOfMemoryError)
    release_memory(MPS)
    assert apple.emptied == 1


def test_a_gpu_of_amd_is_named_with_its_rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "AMD Instinct MI300X")
    monkeypatch.setattr(torch.version, "hip", "7.0.51831")
    assert device_name(CUDA) == "AMD Instinct MI300X (ROCm 7.0.51831)"


def test_a_network_that_does_not_fit_into_memory_is_refused_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "available_bytes", lambda: 1_000_000)
    message = r"checkpoint takes 0 GB of memory as float32, and 0 GB are free. Use a GPU, or --dtype bfloat16"
    with pytest.raises(RunError, match=message):
        ArtiMuse.load(golden_checkpoint("artimuse"))
    monkeypatch.setattr(device_module, "available_bytes", lambda: 500_000)
    with pytest.raises(RunError, match=r"as bfloat16, and 0 GB are free. Use a GPU.$"):
        ArtiMuse.load(golden_checkpoint("artimuse"), dtype="bfloat16")


def test_a_device_without_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match="--device takes auto, cpu, cuda, cuda:N or mps, not 'tpu'"):
        resolve_device("tpu")
