"""The model as a Python object: load a checkpoint, score and describe pictures.

    model = ArtiMuse.load("ArtiMuse")
    model.score("photo.jpg").score          # 63.1
    model.score(["a.jpg", "b.jpg"])         # a list, in the same order
    model.describe("photo.jpg").texts       # {"Composition & Design": "The composition…", …}

Works without Ray, on a bare machine with torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
from PIL import Image

from artimuse_actor.engine.describe import ImageDescription
from artimuse_actor.engine.scoring import ImageScore, image_scores
from artimuse_actor.images.inputs import ImageInput, input_pixels
from artimuse_actor.images.options import DecodeOptions, Pixels
from artimuse_actor.loaded_model import BatchSize, LoadedModel
from artimuse_actor.protocol.protocols import (
    DEFAULT_MAX_NEW_TOKENS,
)


class ArtiMuse(LoadedModel):
    """A loaded checkpoint that scores and describes pictures, whatever form they have."""

    @overload
    def score(self, images: ImageInput, *, options: DecodeOptions = ...) -> ImageScore: ...  # type: ignore[overload-overlap]
    @overload
    def score(self, images: Iterable[ImageInput], *, options: DecodeOptions = ...) -> list[ImageScore]: ...
    def score(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        options: DecodeOptions = DecodeOptions(),
    ) -> ImageScore | list[ImageScore]:
        """Score one picture, or many.

        Args:
            images: one picture or an iterable of pictures, see `ImageInput`; memory is used for one batch at a time.
            options: how files are decoded; the default is the published preprocessing.

        Returns:
            One `ImageScore` for one picture, a list in the same order for many.

        Raises:
            ImageError: a picture cannot be read; the message names it. To go on without it, use the job.
        """
        if isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray):
            return self._score_batch([input_pixels(images, options)])[0]
        results: list[ImageScore] = []
        batch: list[Pixels] = []
        for image in images:
            batch.append(input_pixels(image, options))
            if len(batch) == self.batch_size:
                results += self._score_batch(batch)
                batch = []
        return results + (self._score_batch(batch) if batch else [])

    @overload
    def describe(  # type: ignore[overload-overlap]
        self,
        images: ImageInput,
        *,
        attributes: Sequence[str] | None = ...,
        max_new_tokens: int = ...,
        sequences: BatchSize = ...,
        options: DecodeOptions = ...,
    ) -> ImageDescription: ...
    @overload
    def describe(
        self,
        images: Iterable[ImageInput],
        *,
        attributes: Sequence[str] | None = ...,
        max_new_tokens: int = ...,
        sequences: BatchSize = ...,
        options: DecodeOptions = ...,
    ) -> list[ImageDescription]: ...
    def describe(
        self,
        images: ImageInput | Iterable[ImageInput],
        *,
        attributes: Sequence[str] | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        sequences: BatchSize = "auto",
        options: DecodeOptions = DecodeOptions(),
    ) -> ImageDescription | list[ImageDescription]:
        """Score one picture, or many, and answer the text questions about each.

        Args:
            images: one picture or an iterable of pictures, see `ImageInput`.
            attributes: titles of some text questions, or their columns; all of them if not given.
            max_new_tokens: where a text is cut; the published code's limit is 8192.
            sequences: texts that are generated at the same time.
            options: how files are decoded; the default is the published preprocessing.

        Returns:
            One `ImageDescription` for one picture, a list in the same order for many.

        Raises:
            ImageError: a picture cannot be read; the message names it.
            UsageError: an attribute is unknown, or a number out of range.
        """
        alone = isinstance(images, str | os.PathLike | bytes | Image.Image | np.ndarray)
        given: Iterable[ImageInput] = [images] if alone else images  # type: ignore[assignment, list-item]
        found = dict(
            self.describe_each(
                given, attributes=attributes, max_new_tokens=max_new_tokens, sequences=sequences, options=options
            )
        )
        return found[0] if alone else [found[index] for index in range(len(found))]

    def describe_each(
        self,
        images: Iterable[ImageInput],
        *,
        attributes: Sequence[str] | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        sequences: BatchSize = "auto",
        options: DecodeOptions = DecodeOptions(),
    ) -> Iterator[tuple[int, ImageDescription]]:
        """Yield each picture of `describe` as soon as it is finished, with its index among the images.

        Pictures are read as they are needed, so an endless iterable is fine.
        """
        describer = self.describer(attributes=attributes, max_new_tokens=max_new_tokens, sequences=sequences)
        for index, image in enumerate(images):
            describer.add(index, input_pixels(image, options))
            while not describer.engine.wants_images:
                yield from describer.step()
        while describer.engine.busy:
            yield from describer.step()

    def _score_batch(self, batch: Sequence[Pixels]) -> list[ImageScore]:
        return image_scores(tuple(self.protocol.score_questions), self.score_pixels(np.stack(batch)))
