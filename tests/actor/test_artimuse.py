from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from support.golden import PROTOCOL_NAMES, golden_answers, golden_checkpoint, golden_images
from support.tiny_checkpoints import change_config, change_tensors, copy_checkpoint

from artimuse_actor import ArtiMuse, DecodeOptions, ImageError, ImageScore
from artimuse_actor.checkpoint.checkpoint import SINGLE_FILE, Checkpoint
from artimuse_actor.engine.late_read import LateRead
from artimuse_actor.errors import CheckpointError, RunError, UsageError
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import Pixels

TOLERANCE_POINTS = 1e-3


@contextmanager
def batches_of(model: ArtiMuse, batch_size: int) -> Iterator[ArtiMuse]:
    before, model.batch_size = model.batch_size, batch_size
    try:
        yield model
    finally:
        model.batch_size = before


@contextmanager
def memory_for(model: ArtiMuse, images: int) -> Iterator[list[int]]:
    """The vision tower runs out of memory, as a GPU does, when a batch holds more images; yields the sizes tried."""
    tried: list[int] = []

    def run_out_of_memory(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        tried.append(len(inputs[0]))
        if len(inputs[0]) > images:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = model.model.network.vision_model.register_forward_pre_hook(run_out_of_memory)
    try:
        yield tried
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def pictures() -> Pixels:
    """(13, 448, 448, 3) uint8: the golden pictures."""
    return np.stack([decode_image(path.read_bytes()).pixels for path in golden_images()])


def assert_golden(protocol: str, scores: Sequence[ImageScore]) -> None:
    answers = golden_answers(protocol)
    assert len(scores) == len(answers)
    for score, answer in zip(scores, answers, strict=True):
        assert set(score.scores) == set(answer["scores"])
        for question, golden in answer["scores"].items():
            assert score.scores[question] == pytest.approx(golden["score"], abs=TOLERANCE_POINTS), answer["image"]
            assert score.stds[question] == pytest.approx(golden["std"], abs=TOLERANCE_POINTS), answer["image"]
            probabilities = torch.tensor(golden["logits"], dtype=torch.float64).softmax(-1).numpy()
            np.testing.assert_allclose(score.distributions[question], probabilities, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_scores_spreads_and_probabilities_are_those_of_the_published_code(
    models: dict[str, ArtiMuse], protocol: str, batch_size: int
) -> None:
    with batches_of(models[protocol], batch_size) as model:
        assert_golden(protocol, model.score(golden_images()))


def test_a_batch_is_read_when_the_next_is_on_its_way(
    models: dict[str, ArtiMuse], monkeypatch: pytest.MonkeyPatch, pictures: Pixels
) -> None:
    # The host copies pixels and launches kernels while the device computes.
    done: list[str] = []
    read, encode = LateRead.read, models["artimuse"].model.encode_images

    def reading(self: LateRead) -> torch.Tensor:
        done.append("read")
        return read(self)

    def encoding(pixels: torch.Tensor) -> torch.Tensor:
        done.append(f"encode {len(pixels)}")
        return encode(pixels)

    monkeypatch.setattr(LateRead, "read", reading)
    monkeypatch.setattr(models["artimuse"].model, "encode_images", encoding)
    with batches_of(models["artimuse"], 2) as model:
        model.score_pixels(pictures[:5])
    assert done == ["encode 2", "encode 2", "read", "encode 1", "read", "read"]


@pytest.mark.slow
def test_paths_strings_uris_bytes_pictures_and_arrays_score_the_same(models: dict[str, ArtiMuse]) -> None:
    model, paths = models["artimuse"], golden_images()
    assert_golden("artimuse", model.score(str(path) for path in paths))
    assert_golden("artimuse", model.score([path.as_uri() for path in paths]))
    assert_golden("artimuse", model.score(path.read_bytes() for path in paths))
    opened = [Image.open(path) for path in paths]
    assert_golden("artimuse", model.score(opened))
    arrays = [np.asarray(image.convert("RGB")) for image in opened]
    assert_golden("artimuse", model.score(arrays))
    for image in opened:
        image.close()


def test_one_picture_gives_one_score_in_every_form(models: dict[str, ArtiMuse]) -> None:
    model, path = models["artimuse"], golden_images()[0]
    golden = golden_answers("artimuse")[0]["scores"]["score"]
    with Image.open(path) as image:
        array = np.asarray(image)
        results = [model.score(form) for form in (path, str(path), path.read_bytes(), image, array)]
    for result in results:
        assert isinstance(result, ImageScore)
        assert result.score == pytest.approx(golden["score"], abs=TOLERANCE_POINTS)
        assert result.score_std == pytest.approx(golden["std"], abs=TOLERANCE_POINTS)


def test_grey_and_transparent_arrays_are_scored_like_their_files(models: dict[str, ArtiMuse]) -> None:
    model, paths = models["artimuse"], {path.name: path for path in golden_images()}
    for name in ("05_gray.png", "07_rgba.png"):
        with Image.open(paths[name]) as image:
            array = np.asarray(image)
        assert model.score(array).score == pytest.approx(model.score(paths[name]).score, abs=1e-3)


def test_the_first_score_of_unipercept_is_the_aesthetic_one(models: dict[str, ArtiMuse]) -> None:
    result = models["unipercept"].score(golden_images()[0])
    assert list(result.scores) == ["iaa", "iqa", "ista"]
    assert (result.score, result.score_std) == (result.scores["iaa"], result.stds["iaa"])


@pytest.mark.slow
def test_batched_scores_equal_scores_one_by_one(models: dict[str, ArtiMuse], pictures: Pixels) -> None:
    with batches_of(models["unipercept"], 1) as model:
        one_by_one = model.score_pixels(pictures)
    with batches_of(models["unipercept"], 13) as model:
        at_once = model.score_pixels(pictures)
    np.testing.assert_allclose(at_once.score, one_by_one.score, atol=TOLERANCE_POINTS)
    np.testing.assert_allclose(at_once.std, one_by_one.std, atol=TOLERANCE_POINTS)
    np.testing.assert_allclose(at_once.distribution.sum(-1), 1, atol=1e-5)


def test_no_pictures_have_no_scores(models: dict[str, ArtiMuse]) -> None:
    model = models["unipercept"]
    assert model.score([]) == []
    scores = model.score_pixels(np.empty((0, 448, 448, 3), np.uint8))
    assert (scores.score.shape, scores.std.shape, scores.distribution.shape) == ((0, 3), (0, 3), (0, 3, 101))


def test_of_many_pictures_one_batch_at_a_time_is_held(models: dict[str, ArtiMuse]) -> None:
    read: list[int] = []
    passes: list[int] = []
    path = golden_images()[4]

    def photos() -> Iterator[Path]:
        for n in range(5):
            read.append(n)
            yield path

    with batches_of(models["artimuse"], 2) as model:
        handle = model.model.network.vision_model.register_forward_pre_hook(lambda *_: passes.append(len(read)))
        model.score(photos())
        handle.remove()
    assert passes == [2, 4, 5]


@pytest.mark.slow
def test_out_of_memory_halves_the_batch_and_every_score_is_equal(models: dict[str, ArtiMuse], pictures: Pixels) -> None:
    with batches_of(models["artimuse"], 8) as model, memory_for(model, 2) as tried:
        scores = model.score_pixels(pictures[:7])
        assert model.batch_size == 1  # 7 → 3 → 1
    assert tried == [7, 3, *[1] * 7]  # halved for good, not tried again with more
    np.testing.assert_allclose(scores.score, models["artimuse"].score_pixels(pictures[:7]).score, atol=TOLERANCE_POINTS)


@pytest.mark.slow
def test_out_of_memory_in_the_middle_loses_and_doubles_nothing(models: dict[str, ArtiMuse], pictures: Pixels) -> None:
    model = models["artimuse"]
    passes = count()

    def run_out_of_memory_once(*_: object) -> None:
        if next(passes) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = model.model.network.vision_model.register_forward_pre_hook(run_out_of_memory_once)
    with batches_of(model, 4):
        scores = model.score_pixels(pictures)
        assert model.batch_size == 2
    handle.remove()
    np.testing.assert_allclose(scores.score, model.score_pixels(pictures).score, atol=TOLERANCE_POINTS)


def test_one_image_that_does_not_fit_stops_the_run_with_a_sentence(
    models: dict[str, ArtiMuse], pictures: Pixels
) -> None:
    with batches_of(models["artimuse"], 4) as model, memory_for(model, 0) as tried:
        with pytest.raises(RunError, match=r"^One image does not fit into the free memory of cpu\. Stop what else"):
            model.score_pixels(pictures[:3])
        assert tried == [3, 1]


def test_an_unreadable_picture_is_named(models: dict[str, ArtiMuse], tmp_path: Path) -> None:
    text = tmp_path / "holiday.jpg"
    text.write_text("Dear diary")
    with pytest.raises(ImageError, match=r"holiday\.jpg: The file starts like no image") as caught:
        models["artimuse"].score([golden_images()[0], text])
    assert caught.value.error_type == "not_an_image"
    with pytest.raises(ImageError, match=r"nowhere\.jpg: There is no such file"):
        models["artimuse"].score(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="10 bytes: The file starts like no image"):
        models["artimuse"].score(b"Dear diary")


def test_a_truncated_picture_opened_by_the_user_is_an_image_error(models: dict[str, ArtiMuse], tmp_path: Path) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(golden_images()[0].read_bytes()[:5000])
    with Image.open(cut) as image, pytest.raises(ImageError, match=r"cut\.jpg") as caught:
        models["artimuse"].score(image)
    assert caught.value.error_type == "truncated"


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((8, 8, 2), np.uint8),
        np.zeros((8, 8, 5), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros(8, np.uint8),
    ],
    ids=lambda array: f"{array.shape} {array.dtype}",
)
def test_an_array_that_is_no_picture_is_refused(models: dict[str, ArtiMuse], array: Pixels) -> None:
    with pytest.raises(UsageError, match="An array of one picture is"):
        models["artimuse"].score(array)


def test_decode_options_reach_the_decoder(models: dict[str, ArtiMuse]) -> None:
    model, path = models["artimuse"], golden_images()[10]
    assert path.name == "10_exif6.jpg"
    turned = model.score(path, options=DecodeOptions(exif_rotate=True))
    assert abs(turned.score - model.score(path).score) > 1e-2
    with pytest.raises(ImageError, match="the limit is 100"):
        model.score(path, options=DecodeOptions(max_bytes=100))
    with Image.open(path) as image:
        assert model.score(image, options=DecodeOptions(exif_rotate=True)).score == pytest.approx(
            turned.score, abs=1e-3
        )


def test_the_protocol_is_guessed_and_can_be_chosen(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "my-UniPercept", "unipercept")
    assert ArtiMuse.load(folder).protocol.name == "unipercept"
    assert ArtiMuse.load(folder, protocol="artimuse").protocol.name == "artimuse"
    assert ArtiMuse.load(Checkpoint(folder)).protocol.name == "unipercept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"device": "tpu"}, "--device takes auto, cpu, cuda"),
        ({"device": "meta"}, "--device takes auto, cpu, cuda"),
        ({"device": "cuda:99"}, r"--device cuda:99: torch sees \d+ GPUs here"),
        ({"device": "mps"}, "--device mps: torch sees no GPU of Apple here"),
        ({"dtype": "int8"}, "--dtype takes auto, float32"),
        ({"batch_size": 0}, "--batch-size takes a whole number from 1"),
        ({"protocol": "vila"}, "There is no protocol 'vila'"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ArtiMuse.load(golden_checkpoint("artimuse"), **arguments)  # type: ignore[arg-type]


def test_a_prompt_token_outside_the_embedding_table_is_a_checkpoint_error(tmp_path: Path) -> None:
    # On a GPU the look-up would end in a device assert that names nothing. `</img>` is token 1147 here.
    folder = copy_checkpoint(tmp_path / "checkpoint")
    tensors = load_file(folder / SINGLE_FILE)
    names = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
    change_tensors(folder, **{name.replace(".", "__"): tensors[name][:1147] for name in names})
    change_config(folder, language={"vocab_size": 1147})
    with pytest.raises(CheckpointError, match=r"checkpoint: .* token 1147, outside the vocabulary of 1,147"):
        ArtiMuse.load(folder)


def test_an_odd_head_dimension_is_a_checkpoint_error(tmp_path: Path) -> None:
    folder = copy_checkpoint(tmp_path / "checkpoint")
    change_config(folder, language={"num_attention_heads": 32, "num_key_value_heads": 16})
    with pytest.raises(CheckpointError, match="num_attention_heads"):
        ArtiMuse.load(folder)


@pytest.mark.process
def test_everything_but_the_actor_works_without_ray_and_pyarrow() -> None:
    program = (
        "import sys\n"
        "sys.modules['ray'] = sys.modules['pyarrow'] = None\n"  # an import of either fails
        "from artimuse_actor import ArtiMuse\n"
        "print(ArtiMuse.load(sys.argv[1]).score(sys.argv[2]).score)\n"
    )
    command = [sys.executable, "-c", program, str(golden_checkpoint("artimuse")), str(golden_images()[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert float(done.stdout) == pytest.approx(golden_answers("artimuse")[0]["scores"]["score"]["score"], abs=1e-3)
