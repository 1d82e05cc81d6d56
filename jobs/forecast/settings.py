"""Settings of the `plan` command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from artimuse_actor.checkpoint.network_config import known_precision
from artimuse_actor.errors import UsageError
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.options import DecodeOptions
from jobs.forecast.sample import MAX_SAMPLE
from jobs.manifest.manifest import ManifestOptions
from jobs.store.text_request import WantedTexts

if TYPE_CHECKING:
    from artimuse_actor.loaded_model import BatchSize


@dataclass(frozen=True)
class OutlookSettings:
    """Settings of the `plan` command.

    Attributes:
        source: what to score, see `jobs.manifest.source`.
        checkpoint: folder or name of the model to measure with, or None.
        out: the store of the run, or None for a new one.
        manifest: how the source is read.
        decode: how images are decoded.
        fetch: how image files are fetched.
        protocol: its name or TOML file, or None to guess it from the checkpoint's name.
        published_arithmetic: as of `score`.
        device: `auto`, `cpu`, `cuda` or `mps`.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        quantize: as of `score`.
        allow_mixed: as of `score`.
        batch_size: images of a forward pass, or `auto`.
        texts: which texts to generate, or None for those of the store, if it has any.
        images_per_s: images that one device scores per second; None to measure.
        texts_images_per_s: images that one device scores and describes per second; None to measure.
        sample: number of images to draw.
        seed: seed of the drawing.
        gpus: number of devices; None for those of this machine.
        cores: CPU cores, in all; None for those of this machine or, if `gpus` is given, no limit.
        gbit_per_s: network, in all; None for no limit.
        price: price of a device for an hour.
    """

    source: str
    checkpoint: str | None = None
    out: str | None = None
    manifest: ManifestOptions = field(default_factory=ManifestOptions)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    fetch: FetchOptions = field(default_factory=FetchOptions)
    protocol: str | None = None
    published_arithmetic: bool = False
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    allow_mixed: bool = False
    batch_size: BatchSize = "auto"
    texts: WantedTexts | None = None
    images_per_s: float | None = None
    texts_images_per_s: float | None = None
    sample: int = 64
    seed: int = 0
    gpus: int | None = None
    cores: float | None = None
    gbit_per_s: float | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        known_precision("float32" if self.dtype == "auto" else self.dtype, self.device, self.quantize)
        for option, most, number in (("--sample", MAX_SAMPLE, self.sample), ("--gpus", 1_000_000, self.gpus)):
            if number is not None and not 1 <= number <= most:
                raise UsageError(f"{option} takes a whole number from 1 to {most:,}, not {number}.")
        for option, value in (
            ("--images-per-s", self.images_per_s),
            ("--texts-images-per-s", self.texts_images_per_s),
            ("--cores", self.cores),
            ("--gbit-per-s", self.gbit_per_s),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{option} takes a number above 0, not {value:g}.")
        if self.price is not None and not 0 <= self.price < float("inf"):
            raise UsageError(f"--price takes a number from 0, not {self.price:g}.")
        if self.seed < 0:
            raise UsageError(f"--seed takes a whole number from 0, not {self.seed}.")
        if self.texts_images_per_s is not None and self.texts is None:
            raise UsageError("--texts-images-per-s is about texts. Add --texts.")
