"""The forecast of a run: rows are counted, a sample is loaded and scored here, and the rest is extrapolated.

A speed that is given is not measured: with one from elsewhere, no model is loaded and no GPU is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from artimuse_actor.checkpoint.network_config import known_precision
from artimuse_actor.errors import RunError, UsageError
from artimuse_actor.node import usable_cores
from jobs.forecast.costs import ImageCost, Machines, Measured, Whole, mean, share, whole
from jobs.forecast.precision import ModelMemory
from jobs.forecast.sample import (
    Counted,
    LoadedSample,
    count_rows_to_do,
    load_sample,
    time_scores,
    time_texts,
)
from jobs.forecast.settings import OutlookSettings
from jobs.manifest.source import open_manifest
from jobs.storage.places import open_place
from jobs.store.fingerprints import fingerprint_of
from jobs.store.layout import STORE_FILE
from jobs.store.precision import refuse_other_precision
from jobs.store.store import Store
from jobs.store.text_request import WantedTexts
from jobs.words import by_count, show

if TYPE_CHECKING:
    from artimuse_actor.artimuse import ArtiMuse

SCORES: Final = "scores only"
TEXTS: Final = "with texts"

Origin = Literal["given", "measured", "unknown"]


@dataclass(frozen=True)
class Speed:
    """The speed of a model, and its origin.

    Attributes:
        image_s: seconds of one device for an image; None if not known.
        origin: whether it was given, measured here, or is unknown.
        how: the rest of the sentence: on what it was measured, or why it was not.
        on_cpu: whether it was measured on a CPU, which says nothing about a GPU.
    """

    image_s: Measured | None
    origin: Origin
    how: str = ""
    on_cpu: bool = False


@dataclass(frozen=True)
class Outlook:
    """The forecast of scoring a source.

    Attributes:
        settings: settings of the command.
        notes: sentences about files and rows of the source that were left out.
        counted: the rows of the source.
        loaded: the loaded sample, with its costs; None if there is nothing to do.
        memory: of the model, if one was loaded.
        speeds: `SCORES`, `TEXTS` or both → speed of the model.
        wholes: `SCORES`, `TEXTS` or both → cost of the whole run.
    """

    settings: OutlookSettings
    notes: list[str]
    counted: Counted
    loaded: LoadedSample | None
    memory: ModelMemory | None
    speeds: Mapping[str, Speed]
    wholes: Mapping[str, Whole]


def look_ahead(settings: OutlookSettings) -> Outlook:
    """Count, sample, measure, and extrapolate.

    Raises:
        ManifestError: the source has no rows.
        StoreMismatch: the store has scores of another checkpoint than the given one.
        RunError: no image of the sample can be read.
        ArtiMuseError: the source, the store or the checkpoint cannot be read.
    """
    _check_speeds(settings)
    manifest = open_manifest(settings.source, settings.manifest, settings.fetch)
    store = _open_store(settings)
    texts_alone = store is not None and store.texts is not None  # every run into such a store makes texts
    with_texts = settings.texts is not None or texts_alone
    stored = None if store is None else store.stored_rows(texts=with_texts)
    counted = count_rows_to_do(manifest, stored, settings.sample, settings.seed)
    asked = [*([] if texts_alone else [SCORES]), *([TEXTS] if with_texts else [])]
    works = {name: counted.work(texts=name == TEXTS) for name in asked}
    if not any(work.rows for work in works.values()):
        return Outlook(settings, manifest.notes, counted, None, None, {}, {})
    loaded = load_sample(counted.sample, settings.fetch, settings.decode)
    if not loaded.pixels:
        raise RunError(
            f"{settings.source}: none of the {len(loaded.sizes)} images that were drawn can be read "
            f"({by_count(loaded.errors)}). Look at one of them with `artimuse image`, or draw more with --sample."
        )
    speeds, memory = _speeds(settings, asked, loaded, store)
    machines = _machines(settings)
    wholes = {
        name: whole(work, _image_cost(loaded, work.rows, speeds[name]), machines)
        for name, work in works.items()
        if work.rows
    }
    return Outlook(settings, manifest.notes, counted, loaded, memory, speeds, wholes)


def _check_speeds(settings: OutlookSettings) -> None:
    given = settings.images_per_s is not None
    if settings.texts and given and settings.texts_images_per_s is None and settings.checkpoint is None:
        raise UsageError(
            "--images-per-s is the speed without texts. Give --texts-images-per-s, too, or a --checkpoint to measure "
            "with."
        )


def _open_store(settings: OutlookSettings) -> Store | None:
    """The store that a run would add to, if there is one."""
    if settings.out is None:
        return None
    try:
        open_place(settings.out).read(STORE_FILE)
    except FileNotFoundError:
        show(f"{settings.out} is no store yet, so everything counts.", file=sys.stderr)
        return None
    if settings.checkpoint is not None:
        _refuse_other_scores(settings.out, settings.checkpoint, settings)
    store = Store.open(settings.out)
    precision = known_precision(settings.dtype, settings.device, settings.quantize)
    if precision and not settings.allow_mixed:
        refuse_other_precision(store, precision)
    return store


def _refuse_other_scores(out: str, checkpoint: str, settings: OutlookSettings) -> None:
    from artimuse_actor.checkpoint.names import identify_checkpoint
    from artimuse_actor.protocol.protocol_file import choose_protocol

    found = identify_checkpoint(checkpoint)
    protocol = choose_protocol(settings.protocol, found, published_arithmetic=settings.published_arithmetic)
    fingerprint = fingerprint_of(found, protocol, settings.decode)
    Store.for_run(out, fingerprint, protocol, keep_distribution=False, wanted_texts=settings.texts)


def _speeds(
    settings: OutlookSettings, asked: list[str], loaded: LoadedSample, store: Store | None
) -> tuple[dict[str, Speed], ModelMemory | None]:
    given = {SCORES: settings.images_per_s, TEXTS: settings.texts_images_per_s}
    speeds = {
        name: Speed(Measured(1 / images_per_s), "given") for name in asked if (images_per_s := given[name]) is not None
    }
    open_ = [name for name in asked if name not in speeds]
    if not open_:
        return speeds, None
    if settings.checkpoint is None:
        unknown = Speed(None, "unknown", "no --checkpoint was named to measure it with")
        return speeds | dict.fromkeys(open_, unknown), None
    from artimuse_actor.artimuse import ArtiMuse

    try:
        model = ArtiMuse.load(
            settings.checkpoint,
            protocol=settings.protocol,
            device=settings.device,
            dtype=settings.dtype,
            quantize=settings.quantize,
            batch_size=settings.batch_size,
            published_arithmetic=settings.published_arithmetic,
        )
    except RunError as error:  # the cost of loading images is useful even without the model's speed
        return speeds | dict.fromkeys(open_, Speed(None, "unknown", str(error).rstrip("."))), None
    memory = ModelMemory.of(model)
    return speeds | {name: _measured_speed(name, model, settings, loaded, store) for name in open_}, memory


def _measured_speed(
    name: str, model: ArtiMuse, settings: OutlookSettings, loaded: LoadedSample, store: Store | None
) -> Speed:
    if name == SCORES:
        timed = time_scores(model, loaded.pixels)
        what = f"{timed.images:,} images in batches of {model.batch_size}"
    else:
        wanted = settings.texts or WantedTexts()
        texts = wanted.settings(model.protocol, store.texts if store else None)
        timed = time_texts(model, loaded.pixels, texts)
        each = f"{len(texts.titles)} texts and {timed.tokens:,.0f} tokens each"
        what = f"{timed.images:,} images, {each}, start and end included"
    from artimuse_actor.engine.device import device_name

    on_cpu = model.model.device.type == "cpu"
    processor = "the CPU" if on_cpu else device_name(model.model.device)
    origin = f"on {processor} ({model.precision}) with {what}"
    return Speed(timed.image_s, "measured", origin, on_cpu)


def _machines(settings: OutlookSettings) -> Machines:
    cores = settings.cores
    if cores is None and settings.gpus is None:
        cores = usable_cores()
    return Machines(settings.gpus or _gpus_here() or 1, cores, settings.gbit_per_s, settings.price)


def _gpus_here() -> int:
    import torch

    return torch.cuda.device_count()


def _image_cost(loaded: LoadedSample, rows: int, speed: Speed) -> ImageCost:
    count = len(loaded.sizes)
    return ImageCost(
        readable=share(len(loaded.pixels), count, rows).measured,
        read_bytes=mean([float(size) for size in loaded.sizes], rows),
        load_cpu_s=mean(loaded.cpu_s, rows),
        model_s=speed.image_s,
        s3_share=loaded.s3_rows / count,
    )
