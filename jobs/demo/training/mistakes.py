"""Mistakes that a scorer can make without an error message, and the demo checkpoint's SRCC under each.

A mistake replaces one step of the chain (resize, normalise, prompt, levels) and leaves the others to the code that
scores in earnest. The demo number is worth something because it is high without a mistake and falls with one.

Resizing and levels ruin the ranking by themselves. A wrong prompt and a wrong normalisation do because the checkpoint
was trained to rank upside down where it finds one: those marked `trained` it has seen in training, the others not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from PIL import Image, ImageOps
from scipy import stats
from tokenizers import Tokenizer

from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.engine.network import Network
from artimuse_actor.engine.pixel_values import IMAGENET_MEAN, IMAGENET_STD
from artimuse_actor.engine.read_prompts import read_answers, read_prompts
from artimuse_actor.engine.scoring import expected_level, level_probabilities
from artimuse_actor.images.options import IMAGE_SIZE, Pixels
from artimuse_actor.images.preprocess import to_pixels
from artimuse_actor.protocol.prompts import SplitPrompts, image_token_id
from artimuse_actor.protocol.protocols import (
    ARTIMUSE,
    IMAGE_END,
    IMAGE_START,
    IMAGE_TOKENS,
    LEVELS,
    SYSTEM_MESSAGE,
    TURN_END,
    TURN_START,
    UNIPERCEPT,
)
from jobs.demo.pictures import Picture

Normalise = Callable[[torch.Tensor], torch.Tensor]
"""(B, 448, 448, 3) uint8 → (B, 3, 448, 448) float32."""

PROMPT: Final = ARTIMUSE.prompt(ARTIMUSE.score_questions["score"])
BATCH_SIZE: Final = 10


@dataclass(frozen=True)
class Mistake:
    """One step of the chain done wrongly.

    Attributes:
        name: what is done, in a few words.
        trained: whether the checkpoint has seen this one in training.
        prompt: the whole text the model reads.
        resize: a picture → (448, 448, 3) uint8.
        normalise: replacement for `VisionLanguageModel.normalise`, or None.
        levels: the score tokens, in the order in which they are taken for 0…100.
    """

    name: str
    trained: bool = False
    prompt: str = PROMPT
    resize: Callable[[Image.Image], Pixels] = to_pixels
    normalise: Normalise | None = None
    levels: Sequence[str] = LEVELS


def measure(network: Network, tokenizer: Tokenizer, pictures: Sequence[Picture], mistake: Mistake) -> float:
    """SRCC of the scores against the ground truth when the pictures are scored with a mistake."""
    scores = score_pixels(network, tokenizer, [mistake.resize(picture.image) for picture in pictures], mistake)
    return float(stats.spearmanr(scores, [picture.gt_score for picture in pictures]).statistic)


def score_pixels(network: Network, tokenizer: Tokenizer, pixels: Sequence[Pixels], mistake: Mistake) -> list[float]:
    """Scores of resized pictures, in points, by the real passes."""
    model = _MistakenModel(network, mistake.normalise)
    prompts = split_prompt(tokenizer, mistake.prompt)
    levels = torch.tensor([tokenizer.token_to_id(level) for level in mistake.levels])
    scores: list[float] = []
    with torch.inference_mode():
        asked = read_prompts(model, prompts)
        for start in range(0, len(pixels), BATCH_SIZE):
            batch = torch.stack([torch.tensor(image) for image in pixels[start : start + BATCH_SIZE]])
            hidden = read_answers(model, asked, model.encode_images(batch))[:, 0]  # (B, C)
            scores += expected_level(level_probabilities(model.head_logits(hidden, levels))).tolist()
    return scores


def split_prompt(tokenizer: Tokenizer, prompt: str) -> SplitPrompts:
    """The token ids of any text that holds one image, cut around it."""
    ids = tuple(tokenizer.encode(prompt, add_special_tokens=False).ids)
    start = ids.index(image_token_id(tokenizer))
    return SplitPrompts(head=ids[:start], shared=(), tails=(ids[start + IMAGE_TOKENS :],))


class _MistakenModel(VisionLanguageModel):
    """The real passes, with another normalisation if one is given."""

    def __init__(self, network: Network, mistaken: Normalise | None) -> None:
        super().__init__(network)
        self._mistaken = mistaken

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels as the mistake makes them."""
        return super().normalise(pixels) if self._mistaken is None else self._mistaken(pixels)


def shifted_and_scaled(mean: Sequence[float], std: Sequence[float], scale: float = 255, bgr: bool = False) -> Normalise:
    """A normalisation with other numbers, and perhaps of the channels in reverse."""

    def normalise(pixels: torch.Tensor) -> torch.Tensor:
        values = pixels.flip(-1) if bgr else pixels
        return ((values.float() / scale - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)

    return normalise


def _pad(image: Image.Image) -> Pixels:
    return to_pixels(ImageOps.pad(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


def _crop(image: Image.Image) -> Pixels:
    return to_pixels(ImageOps.fit(image, (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))


_QUESTION = ARTIMUSE.score_questions["score"]
_LINES = [line.strip() for line in _QUESTION.strip().splitlines()]

PROMPT_MISTAKES: Final = (
    Mistake("no line break after the image", True, ARTIMUSE.prompt(_QUESTION[1:])),
    Mistake("one line break too many after the image", True, ARTIMUSE.prompt("\n" + _QUESTION)),
    Mistake("both line breaks after the image missing", True, ARTIMUSE.prompt(_QUESTION.lstrip())),
    Mistake("blanks at the ends of the lines trimmed", True, PROMPT.replace(" \n", "\n")),
    Mistake("indents trimmed", True, PROMPT.replace("\n        ", "\n")),
    Mistake("end of the question trimmed", True, ARTIMUSE.prompt(_QUESTION.rstrip())),
    Mistake("question in one line", True, ARTIMUSE.prompt("\n" + " ".join(_LINES))),
    Mistake("question before the image", True, ARTIMUSE.prompt("").replace(IMAGE_START, _QUESTION + IMAGE_START)),
    Mistake("empty system message", True, PROMPT.replace(SYSTEM_MESSAGE, "")),
    Mistake("no system turn", True, PROMPT.replace(f"{TURN_START}system\n{SYSTEM_MESSAGE}{TURN_END}\n", "")),
    Mistake("no assistant header", True, PROMPT.removesuffix(f"{TURN_START}assistant\n")),
    Mistake("UniPercept's wording", True, UNIPERCEPT.prompt(UNIPERCEPT.score_questions["iaa"])),
    Mistake("UniPercept's question about quality", True, UNIPERCEPT.prompt(UNIPERCEPT.score_questions["iqa"])),
    Mistake("an expert text's question", True, ARTIMUSE.prompt(ARTIMUSE.text_questions["Composition & Design"])),
    Mistake("UniPercept's misprints", True, PROMPT.replace("78-ec, 79-ed", "73-ec, 74-ed")),
    Mistake("blank lines closed up", False, PROMPT.replace("\n\n", "\n")),
    Mistake("system message in English", False, PROMPT.replace(SYSTEM_MESSAGE, "You are a helpful assistant.")),
    Mistake(
        "template without line breaks after the roles",
        False,
        PROMPT.replace("user\n", "user").replace("assistant\n", "assistant"),
    ),
    Mistake("question asked twice", False, ARTIMUSE.prompt(_QUESTION + _QUESTION)),
    Mistake("no tokens around the image", False, PROMPT.replace(IMAGE_START, "").replace(IMAGE_END, "")),
)

PIXEL_MISTAKES: Final = (
    Mistake("0…1, not normalised", True, normalise=shifted_and_scaled((0, 0, 0), (1, 1, 1))),
    Mistake("0…255, not normalised", True, normalise=shifted_and_scaled((0, 0, 0), (1, 1, 1), scale=1)),
    Mistake(
        "normalised without division by 255", True, normalise=shifted_and_scaled(IMAGENET_MEAN, IMAGENET_STD, scale=1)
    ),
    Mistake("mean and deviation 0.5", True, normalise=shifted_and_scaled((0.5,) * 3, (0.5,) * 3)),
    Mistake("BGR for RGB", True, normalise=shifted_and_scaled(IMAGENET_MEAN, IMAGENET_STD, bgr=True)),
    Mistake(
        "mean subtracted, not divided by the deviation", False, normalise=shifted_and_scaled(IMAGENET_MEAN, (1, 1, 1))
    ),
    Mistake(
        "divided by the deviation, mean not subtracted", False, normalise=shifted_and_scaled((0, 0, 0), IMAGENET_STD)
    ),
    Mistake("BGR and not normalised", False, normalise=shifted_and_scaled((0, 0, 0), (1, 1, 1), bgr=True)),
    Mistake(
        "CLIP's mean and deviation",
        True,
        normalise=shifted_and_scaled((0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)),
    ),
)

RESIZE_MISTAKES: Final = (
    Mistake("cropped to a square", resize=_crop),
    Mistake("padded to a square", resize=_pad),
)

LEVEL_MISTAKES: Final = (
    Mistake("levels upside down", levels=LEVELS[::-1]),
    Mistake("levels sorted by their second letter", levels=sorted(LEVELS, key=lambda level: (level[1], level[0]))),
    Mistake("levels counted from ca", levels=LEVELS[26:] + LEVELS[:26]),
)

UNNOTICED_MISTAKES: Final = (
    Mistake("indents of four blanks", False, PROMPT.replace("\n        ", "\n    ")),
    Mistake("aesthetic for aesthetics", False, PROMPT.replace("aesthetics", "aesthetic")),
)
"""Prompts so near to the right one that the demo checkpoint, never having seen them in training, ranks all the same."""

ALL_MISTAKES: Final = (*PROMPT_MISTAKES, *UNNOTICED_MISTAKES, *PIXEL_MISTAKES, *RESIZE_MISTAKES, *LEVEL_MISTAKES)
