"""The full 8B network in bfloat16 on fake CUDA tensors: what shapes, dtypes, devices and operations say.

No number is computed; that the passes are right is shown by other tests, that a GPU would run them is shown here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from support.cuda_doubles import EmulatedCuda, EmulatedEvent, emulate_cuda

from artimuse_actor.checkpoint.network_memory import prefill_bytes
from artimuse_actor.engine import attention
from artimuse_actor.engine.attention import GatheredPages, Pages, VarlenPages
from artimuse_actor.engine.choose_pages import varlen_pages
from artimuse_actor.engine.decode_steps import DecodeSteps
from artimuse_actor.engine.late_read import LateRead
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.text_budget import TextPrompts, step_bytes
from bench.engine.fake_cuda import CUDA, Counts, fake_cuda, fake_model
from bench.engine.fake_kernels import FAKE_PAGES, PAGED_ATTENTION
from bench.engine.fake_passes import PREFIX_TOKENS, admission, captured_step, decode_step, score_batch
from bench.engine.operations import engine_operations, engine_scores_operations
from bench.engine.predicted import H100, moved_bytes, predicted_s
from bench.engine.random_network import FULL, HEAD_TOKENS, TAIL_TOKENS, with_layers

PROMPT_TOKENS = HEAD_TOKENS + 256 + TAIL_TOKENS
LAYERS = FULL.language.num_layers


@pytest.fixture(scope="module", autouse=True)
def _on_fake_cuda() -> Iterator[None]:
    with fake_cuda():
        yield


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return fake_model(FULL, FAKE_PAGES["torch's kernel"])


SHALLOW = replace(with_layers(FULL, 2), vision=replace(FULL.vision, num_layers=1))
"""The same widths with few layers: enough for what each layer would show."""


@pytest.fixture(scope="module")
def shallow() -> VisionLanguageModel:
    return fake_model(SHALLOW, FAKE_PAGES["torch's kernel"])


def use(model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, pages: Pages) -> VisionLanguageModel:
    monkeypatch.setattr(model, "pages", pages)
    return model


@pytest.mark.slow
def test_a_score_batch_copies_pixels_there_and_scores_back_and_nothing_else(model: VisionLanguageModel) -> None:
    # Token ids were once copied in every batch, and the host waited for each.
    counts = score_batch(model, 2)
    assert counts.copies == 1
    assert counts.waits == ("_to_copy",)
    assert counts.kernels["_scaled_dot_product_flash_attention"] == LAYERS + FULL.vision.num_layers
    # The table counts the causal half of attention, of which whole squares are computed here.
    assert counts.flops.total() / 2 == pytest.approx(engine_operations(FULL, HEAD_TOKENS, PROMPT_TOKENS), rel=0.01)


@pytest.mark.slow
def test_three_scores_of_an_image_take_what_the_table_of_rewards_counts(model: VisionLanguageModel) -> None:
    counts = score_batch(model, 2, questions=3)
    counted = engine_scores_operations(FULL, HEAD_TOKENS, HEAD_TOKENS + 256, [PROMPT_TOKENS] * 3)
    assert counts.flops.total() / 2 == pytest.approx(counted, rel=0.01)


@pytest.mark.slow
def test_an_admission_waits_for_its_scores_alone(shallow: VisionLanguageModel) -> None:
    counts = admission(shallow, 2)
    assert counts.waits == ("_to_copy",)
    assert counts.copies == 2  # pixels, and where their pages are


@pytest.mark.slow
@pytest.mark.parametrize("pages", FAKE_PAGES.values(), ids=FAKE_PAGES.keys())
def test_a_decode_step_can_be_captured(
    model: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, pages: Pages
) -> None:
    counts = decode_step(use(model, monkeypatch, pages), 8, 400)
    assert counts.waits == ()
    assert counts.copies == 0
    attention_name = "_scaled_dot_product_efficient_attention" if pages is GatheredPages else PAGED_ATTENTION
    assert counts.kernels[attention_name] == LAYERS
    products = counts.kernels["mm"] + counts.kernels["addmm"]
    assert products == 4 * LAYERS + 1  # queries, keys and values; output; gate and up; down; and the head
    assert counts.kernels["_to_copy"] <= 5  # of a step, not of a layer


@pytest.mark.slow
@pytest.mark.parametrize("pages", FAKE_PAGES.values(), ids=FAKE_PAGES.keys())
def test_the_memory_set_aside_beside_the_cache_holds_what_is_counted(
    shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, pages: Pages
) -> None:
    images, rows, dtype = 4, 64, torch.bfloat16
    use(shallow, monkeypatch, pages)
    assert admission(shallow, images).peak_bytes < images * prefill_bytes(SHALLOW, PREFIX_TOKENS, dtype.itemsize)
    prompts = TextPrompts(prefix=PREFIX_TOKENS, longest=11, count=8, max_new_tokens=512)
    for watched in (0, 4):
        asked = replace(prompts, watched=watched > 0)
        peak = decode_step(shallow, rows, 371, watched).peak_bytes
        assert peak < rows * step_bytes(SHALLOW, asked, dtype, pages)


def test_letters_probabilities_are_noted_without_a_wait_or_a_copy(shallow: VisionLanguageModel) -> None:
    counts = decode_step(shallow, 8, 400, watched=4)
    assert counts.waits == ()
    assert counts.copies == 0
    assert counts.kernels["_softmax"] == 1


def test_torchs_own_function_takes_what_it_is_given(
    shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = varlen_pages()
    assert pages is not None
    captured_step(use(shallow, monkeypatch, pages), 8, 400)()


def test_a_step_on_another_than_the_current_device_is_captured_there(
    shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda: EmulatedCuda = emulate_cuda(monkeypatch, home=1)
    steps = DecodeSteps(shallow, shallow.new_cache(4))
    assert steps.graphs is not None
    packed = torch.zeros(3, 4, dtype=torch.int64, device="cpu")
    for _ in range(2):
        next_ids = steps.graphs.step(packed)
        assert next_ids is not None
        assert (next_ids.shape, next_ids.device) == ((3,), CUDA)
    assert cuda.counts == {"capture": 1, "replay": 2}


def test_a_late_read_waits_for_its_own_copy_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate_cuda(monkeypatch)
    late = LateRead(torch.zeros(2, device=CUDA))
    event = late._event
    assert isinstance(event, EmulatedEvent)
    assert event.waits == 0
    assert late.read().device.type == "cpu"
    assert event.waits == 1


def test_a_cache_that_grows_is_never_captured(shallow: VisionLanguageModel) -> None:
    assert DecodeSteps(shallow, shallow.new_cache()).graphs is None


# What the checks above are worth: each of these mistakes is found.


def wide_table(self: VarlenPages, table: torch.Tensor, prepare: Callable[..., None]) -> None:
    prepare(self, table)
    self._table = table


def test_a_block_table_of_int64_is_found(shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = VarlenPages._prepare
    monkeypatch.setattr(VarlenPages, "_prepare", lambda self, table: wide_table(self, table, prepare))
    with pytest.raises(AssertionError, match="block_table must have dtype"):
        decode_step(shallow, 8, 400)


def test_a_mask_of_float32_is_found(shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = GatheredPages._mask
    monkeypatch.setattr(GatheredPages, "_mask", lambda *arguments: mask(*arguments).float())
    with pytest.raises(AssertionError, match=r"mask is torch\.float32"):
        decode_step(use(shallow, monkeypatch, GatheredPages), 8, 400)


def test_a_tensor_on_the_cpu_is_found(shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    rotary = shallow._rotary
    monkeypatch.setattr(shallow, "_rotary", lambda positions: tuple(part.cpu() for part in rotary(positions)))
    with pytest.raises((RuntimeError, AssertionError), match="device"):
        decode_step(shallow, 8, 400)


def test_a_host_that_reads_within_a_step_is_found(
    shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_tokens = shallow.next_tokens

    def reading(hidden: torch.Tensor, watched: None) -> torch.Tensor:
        hidden[0].cpu()
        return next_tokens(hidden, watched)

    monkeypatch.setattr(shallow, "next_tokens", reading)
    assert decode_step(shallow, 8, 400).waits == ("_to_copy",)


def test_pages_of_32_tokens_are_found(shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VarlenPages, "page_tokens", 32)
    with pytest.raises(AssertionError, match="divisible by 256"):
        decode_step(shallow, 8, 400)


def test_keys_of_another_dtype_are_found(shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    cos_sin = shallow._rotary
    monkeypatch.setattr(shallow, "_rotary", lambda positions: tuple(part.float() for part in cos_sin(positions)))
    with pytest.raises((RuntimeError, AssertionError), match="dtype"):
        decode_step(shallow, 8, 400)


def test_a_prefill_that_stores_all_scores_is_found(
    shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tensor_mask(past: int, new: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros(new, past + new, dtype=dtype, device=device)

    assert attention.causal_mask(4, 4, CUDA, torch.bfloat16) is not None
    monkeypatch.setattr("artimuse_actor.engine.model.causal_mask", tensor_mask)
    with pytest.raises(AssertionError, match="stores all scores"):
        score_batch(shallow, 2)


def test_ids_that_are_copied_within_a_batch_are_found(
    shallow: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = shallow.encode_images

    def encoding(pixels: torch.Tensor) -> torch.Tensor:
        shallow.embed([1, 2, 3])
        return encode(pixels)

    monkeypatch.setattr(shallow, "encode_images", encoding)
    assert score_batch(shallow, 2).copies > 1


def test_a_predicted_time_is_that_of_the_slowest_part() -> None:
    counts = Counts(
        flops=Counter(mm=660_000, attend_pages=300),
        kernels=Counter(mm=1, attend_pages=1, add=1),
        bytes=Counter(mm=300, attend_pages=3_000_000, add=6_000_000),
        waits=(),
        copies=2,
        copied_bytes=25,
        ahead_bytes=1_000_000,
        peak_bytes=0,
    )
    assert moved_bytes(counts) == (300, 3_000_000, 6_000_000)
    assert predicted_s(counts, H100, captured=True) == pytest.approx(1e-9 + 1e-6 + 2e-6 + 1e-9)
    assert predicted_s(counts, H100) == pytest.approx(3 * H100.launch_s)
