"""Files of pictures → their results, as JSON has them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from artimuse_actor.engine.describe import ImageDescription
from artimuse_actor.engine.device import resolve_device, resolve_dtype
from artimuse_actor.errors import ImageError
from artimuse_actor.loaded_model import LoadedModel
from artimuse_actor.verify.self_check import refuse_wrong_device
from jobs.score.single_images import ImageSettings
from jobs.serve.batcher import Batcher
from jobs.serve.bodies import File
from jobs.serve.decoders import Decoders
from jobs.serve.meters import Meters
from jobs.store.fingerprints import fingerprint_of
from schemas.fingerprint import Fingerprint
from schemas.scores import ERROR, OK


class Scorer:
    """A loaded model with its decoders.

    Attributes:
        batcher: has the model.
        fingerprint: of its scores.
        has_texts: whether texts can be asked for.
    """

    def __init__(self, model: LoadedModel, settings: ImageSettings, wait_s: float, meters: Meters) -> None:
        """Start the threads.

        Args:
            model: used by the scorer alone from now on.
            settings: how pictures are decoded, and the texts that can be asked for.
            wait_s: as of `Batcher`.
            meters: count pictures, batches and seconds.

        Raises:
            UsageError: the protocol has no such texts.
        """
        texts = settings.texts.settings(model.protocol) if settings.texts else None
        describer = partial(
            model.describer,
            attributes=texts.titles if texts else None,
            max_new_tokens=texts.max_new_tokens if texts else 1,
            sequences=settings.sequences,
        )
        self.has_texts = texts is not None
        self.fingerprint = _fingerprint(model, settings)
        self.batcher = Batcher(model, describer if texts else None, wait_s, meters)
        self._decoders = Decoders(settings.options, meters)
        self._meters = meters

    @classmethod
    def load(cls, settings: ImageSettings, wait_s: float, meters: Meters) -> Scorer:
        """Load the model, on a device that answers right.

        Raises:
            ArtiMuseError: it cannot be loaded, or the device answers wrong.
        """
        device = resolve_device(settings.device)
        if device.type != "cpu":
            dtype = resolve_dtype(settings.dtype, device)
            refuse_wrong_device(device, dtype, texts=settings.texts is not None, quantize=settings.quantize)
        return cls(settings.load_model(), settings, wait_s, meters)

    async def results(self, files: Sequence[File], *, texts: bool) -> list[dict[str, Any]]:
        """One result for each file, in order; those that are cancelled give their places to others.

        Raises:
            NoNumber: the model's answer to one is no number.
            RequestRefused: the model has failed.
        """
        return await asyncio.gather(*(self._result(file, texts=texts) for file in files))

    def close(self) -> None:
        """End all threads."""
        self.batcher.close()
        self._decoders.close()

    async def _result(self, file: File, *, texts: bool) -> dict[str, Any]:
        try:
            if isinstance(file, ImageError):
                raise file
            image = await asyncio.wrap_future(self._decoders.submit(file))
        except ImageError as error:
            self._meters.images.labels(ERROR).inc()
            self._meters.failed.labels(error.error_type).inc()
            about = {"error_type": error.error_type, "error_message": error.message, "retryable": error.retryable}
            return {"status": ERROR, **about}
        score = await asyncio.wrap_future(self.batcher.submit(image.pixels, texts=texts))
        self._meters.images.labels(OK).inc()
        about = {name: getattr(image, name) for name in ("width", "height", "format", "phash", "warning")}
        result = {"status": OK, **score.columns, **about}
        if isinstance(score, ImageDescription):
            result |= {"texts": dict(score.texts), "finish_reasons": dict(score.finish_reasons)}
        return result


def _fingerprint(model: LoadedModel, settings: ImageSettings) -> Fingerprint:
    return replace(
        fingerprint_of(model.checkpoint.identity, model.protocol, settings.options), precision=model.precision
    )
