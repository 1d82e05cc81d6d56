from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.full_forward import reference
from support.golden import PROTOCOL_NAMES, golden_checkpoint, golden_images
from support.tiny_checkpoints import (
    OTHER_NETWORKS,
    change_config,
    change_tensors,
    copy_checkpoint,
    write_random_checkpoint,
)

from artimuse_actor import ArtiMuse
from artimuse_actor.checkpoint.checkpoint import SINGLE_FILE
from artimuse_actor.engine.kv_cache import EMPTY_CACHE
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.pixel_shuffle import pixel_shuffle
from artimuse_actor.engine.scoring import expected_level, level_probabilities
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import Pixels
from artimuse_actor.protocol.prompts import level_ids, prompt_ids
from artimuse_actor.protocol.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def pictures() -> Pixels:
    """(3, 448, 448, 3) uint8."""
    return np.stack([decode_image(path.read_bytes()).pixels for path in golden_images()[1:4]])


@torch.inference_mode()
def full_forward_scores(model: ArtiMuse, pictures: Pixels) -> torch.Tensor:
    """(N, Q) scores the slow and obvious way: transformers' own forward over the whole prompt, one image at a time."""
    tokenizer, protocol = load_tokenizer(model.checkpoint.folder), model.protocol
    network = reference(model)
    ids = level_ids(tokenizer, protocol, model.checkpoint.folder, network.config.text_config.vocab_size)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    rows = []
    for picture in torch.from_numpy(pictures):
        pixel_values = ((picture.float() / 255 - mean) / std).permute(2, 0, 1).unsqueeze(0)  # (1, 3, 448, 448)
        row = []
        for text in protocol.score_questions.values():
            input_ids = torch.tensor([prompt_ids(tokenizer, protocol, text)])  # (1, T)
            logits = network(input_ids=input_ids, pixel_values=pixel_values.to(model.model.dtype)).logits
            row.append(expected_level(level_probabilities(logits[0, -1, ids])))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_the_fast_path_equals_transformers_own_forward(
    models: dict[str, ArtiMuse], pictures: Pixels, name: str
) -> None:
    # The golden networks amplify rounding: transformers' forward differs from the published code's by 2e-4 itself.
    model = models[name]
    scores = torch.from_numpy(model.score_pixels(pictures).score)
    torch.testing.assert_close(scores, full_forward_scores(model, pictures), atol=5e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", OTHER_NETWORKS.values(), ids=OTHER_NETWORKS.keys())
@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_the_fast_path_equals_transformers_own_forward_in_networks_of_other_sizes(
    tmp_path: Path, pictures: Pixels, sizes: Mapping[str, Mapping[str, Any]], protocol: str
) -> None:
    model = ArtiMuse.load(write_random_checkpoint(tmp_path / "checkpoint", **sizes), protocol=protocol)
    scores = torch.from_numpy(model.score_pixels(pictures[:2]).score)
    torch.testing.assert_close(scores, full_forward_scores(model, pictures[:2]), atol=1e-4, rtol=0)
    assert (scores[0] - scores[1]).abs().min() > 1e-2  # a network that ignores the picture would prove nothing


def test_tied_embeddings_score_like_a_head_that_is_a_copy_of_them(tmp_path: Path, pictures: Pixels) -> None:
    tied = write_random_checkpoint(tmp_path / "tied", language={"tie_word_embeddings": True})
    untied = Path(shutil.copytree(tied, tmp_path / "untied"))
    change_config(untied, language={"tie_word_embeddings": False})
    embeddings = load_file(tied / SINGLE_FILE)["language_model.model.embed_tokens.weight"]
    change_tensors(untied, language_model__lm_head__weight=embeddings)
    assert "language_model.lm_head.weight" not in load_file(tied / SINGLE_FILE)
    scores = [ArtiMuse.load(folder).score_pixels(pictures).score for folder in (tied, untied)]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("part", "setting", "value"),
    [
        ("language", "rope_theta", 10000.0),
        ("language", "rms_norm_eps", 1e-2),
        ("vision", "layer_norm_eps", 1e-2),
        ("vision", "num_attention_heads", 8),
    ],
)
def test_each_setting_of_the_config_reaches_the_network(
    tmp_path: Path, pictures: Pixels, part: str, setting: str, value: float
) -> None:
    # These leave the shapes of most tensors as they are, and scores would stay plausible without them.
    base = write_random_checkpoint(tmp_path / "base")
    other = Path(shutil.copytree(base, tmp_path / "other"))
    change_config(other, **{part: {setting: value}})
    scores = [ArtiMuse.load(folder).score_pixels(pictures).score for folder in (base, other)]
    assert np.abs(scores[0] - scores[1]).max() > 1e-2


def test_a_rope_scaling_is_ignored_as_it_was_when_the_published_numbers_were_made(
    models: dict[str, ArtiMuse], tmp_path: Path, pictures: Pixels
) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    change_config(folder, language={"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 256})
    scores = ArtiMuse.load(folder).score_pixels(pictures).score
    np.testing.assert_allclose(scores, models["artimuse"].score_pixels(pictures).score, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_stays_near_float32(models: dict[str, ArtiMuse]) -> None:
    # The golden network answers like noise, so it is a hard case: transformers' own forward in bfloat16 moves its
    # scores by 1.5 points on average and by 5 at most.
    half = ArtiMuse.load(golden_checkpoint("artimuse"), dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    pictures = np.stack([decode_image(path.read_bytes()).pixels for path in golden_images()])
    difference = np.abs(half.score_pixels(pictures).score - models["artimuse"].score_pixels(pictures).score)
    assert 0 < difference.mean() < 3
    assert difference.max() < 15


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rotary_frequencies_are_float32_to_the_last_bit_in_every_precision(dtype: str) -> None:
    # A cast to bfloat16 and back moves scores by 0.4 points on average.
    model = ArtiMuse.load(golden_checkpoint("artimuse"), dtype=dtype)
    frequencies = model.model.frequencies
    head_dim = model.checkpoint.config.language.head_dim
    exact = 1.0 / (1e6 ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim))
    assert frequencies.dtype == torch.float32
    assert torch.equal(frequencies, exact)


def test_reading_in_two_pieces_equals_reading_at_once(models: dict[str, ArtiMuse]) -> None:
    model = models["artimuse"].model
    hidden = torch.randn(2, 40, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = model.last_hidden(hidden)
        for cut in (1, 17, 39):
            pieces = model.last_hidden(hidden[:, cut:], model.extend(hidden[:, :cut]))
            torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


def test_a_cache_of_one_serves_the_whole_batch(models: dict[str, ArtiMuse]) -> None:
    model = models["artimuse"].model
    generator = torch.Generator().manual_seed(0)
    head, rest = torch.randn(1, 9, 96, generator=generator), torch.randn(3, 5, 96, generator=generator)
    with torch.inference_mode():
        cache = model.extend(head)
        assert (EMPTY_CACHE.length, cache.length, model.extend(rest, cache).length) == (0, 9, 14)
        alone = torch.cat([model.last_hidden(row.unsqueeze(0), cache) for row in rest])
        torch.testing.assert_close(model.last_hidden(rest, cache), alone, atol=1e-5, rtol=1e-5)


def test_head_logits_are_the_rows_of_the_full_head(models: dict[str, ArtiMuse]) -> None:
    model = models["artimuse"].model
    hidden = torch.randn(2, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        few = model.head_logits(hidden, torch.tensor([3, 1000, 5]))
        torch.testing.assert_close(few, model.network.language_model.lm_head(hidden)[:, [3, 1000, 5]])


def test_pixels_are_normalised_like_the_published_code(models: dict[str, ArtiMuse]) -> None:
    model: VisionLanguageModel = models["artimuse"].model
    pixels = torch.zeros(1, 448, 448, 3, dtype=torch.uint8)
    pixels[0, 0, 1] = torch.tensor([255, 128, 0])
    values = model.normalise(pixels)
    assert values.shape == (1, 3, 448, 448)
    expected = torch.tensor([(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(values[0, :, 0, 1], expected)


def test_pixel_shuffle_equals_the_published_one() -> None:
    patches = torch.randn(2, 64, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pixel_shuffle(patches), _published_pixel_shuffle(patches))


def _published_pixel_shuffle(patches: torch.Tensor) -> torch.Tensor:
    # InternVL's own, with ps_version "v2" and scale 0.5.
    n, count, c = patches.shape
    h = w = int(count**0.5)
    x = patches.reshape(n, h, w, c)
    x = x.view(n, w, int(h * 0.5), int(c / 0.5))
    x = x.permute(0, 2, 1, 3).contiguous()
    x = x.view(n, int(h * 0.5), int(w * 0.5), int(c / (0.5 * 0.5)))
    x = x.permute(0, 2, 1, 3).contiguous()
    return x.reshape(n, -1, x.shape[-1])
