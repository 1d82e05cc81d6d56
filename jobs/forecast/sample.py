"""A random sample of the rows to score: their number, and the cost of loading and scoring a few of them.

The whole source is read once, but only names of images. The images of the sample are fetched and decoded as in a job,
in a child process that a bad picture may kill. Loading is measured in CPU seconds, so that other load on the machine
does not count. The model is measured in wall time on the device of this machine, which should be otherwise idle.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from artimuse_actor.errors import ImageError
from artimuse_actor.fetch.fetch import fetch_many
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.options import DecodeOptions, Pixels
from artimuse_actor.uris import uri_scheme
from jobs.forecast.costs import Measured, Work, mean
from jobs.manifest.id_index import hash_strings
from jobs.manifest.manifest import Manifest, without_rows
from jobs.plan.planner import rows_to_do
from jobs.plan.stored_rows import RetryErrors, StoredRows
from jobs.score.image_source import image_source
from schemas.manifest import IMAGE_ROWS

if TYPE_CHECKING:
    from artimuse_actor.artimuse import ArtiMuse
    from schemas.text_settings import TextSettings

MAX_SAMPLE: Final = 1000
"""Largest sample: its pixels stay in memory until the model has scored them, 600 MB."""

# Plain strings, since each batch of a manifest has its own dictionary.
_DRAWN: Final = IMAGE_ROWS.set(IMAGE_ROWS.get_field_index("source_file"), pa.field("source_file", pa.string()))
_LEAST_BATCHES: Final = 6
_LONGEST_S: Final = 30.0
_DESCRIBED_ON_CPU: Final = 2


@dataclass(frozen=True)
class Counted:
    """A source, counted against a store.

    Attributes:
        manifest_rows: rows of the source.
        held_rows: rows of the store.
        new_rows: rows whose ids are not in the store.
        changed: (F,) int64, for each scores file of the store, its rows that are scored again.
        texts_only: (F,) int64, for each scores file of the store, its rows that lack only texts.
        sample: random rows of all these kinds, each equally likely, with the columns of `IMAGE_ROWS`.
    """

    manifest_rows: int
    held_rows: int
    new_rows: int
    changed: NDArray[np.int64]
    texts_only: NDArray[np.int64]
    sample: pa.Table

    def work(self, *, texts: bool) -> Work:
        """The work of a run, with texts or for scores only."""
        replaced = self.changed + self.texts_only if texts else self.changed
        return Work(
            manifest_rows=self.manifest_rows,
            new_rows=self.new_rows,
            held_rows=self.held_rows,
            replaced=tuple(replaced[replaced > 0].tolist()),
            texts=texts,
        )


def count_rows_to_do(manifest: Manifest, stored: StoredRows | None, sample: int, seed: int) -> Counted:
    """Read a manifest once, as a planner does, and draw a sample of the rows that it would plan.

    Without a store no ids are kept in memory, so doubled ids are not found here; `score` finds them.

    Args:
        manifest: the source.
        stored: the rows of the store, if there is one.
        sample: number of rows to draw.
        seed: seed of the drawing; the result does not depend on the manifest's batches.

    Raises:
        ManifestError: there are no rows.
    """
    generator = np.random.default_rng(seed)
    keys, drawn = np.empty(0), _DRAWN.empty_table()
    files = len(stored.files) if stored else 0
    changed, texts_only = np.zeros(files, dtype=np.int64), np.zeros(files, dtype=np.int64)
    manifest_rows = new_rows = 0
    for batch in manifest.batches():
        rows = batch.rows.select(IMAGE_ROWS.names)
        manifest_rows += len(rows)
        if stored is None:
            new_rows += len(rows)
        else:
            todo = rows_to_do(rows, hash_strings(rows["image_id"]), stored, RetryErrors())
            new_rows += int(todo.new.sum())
            for kind, count in ((todo.changed & ~todo.texts_only, changed), (todo.texts_only, texts_only)):
                count += np.bincount(stored.file_of_row[todo.places[kind]], minlength=files)
            rows = rows.filter(pa.array(todo.new | todo.changed))
        # Each row gets a random key; the rows with the smallest keys are the sample.
        keys, is_drawn = _smallest(np.concatenate([keys, generator.random(len(rows))]), sample)
        drawn = pa.concat_tables([drawn, rows.cast(_DRAWN)]).take(pa.array(is_drawn))
    if not manifest_rows:
        raise without_rows(manifest)
    return Counted(manifest_rows, len(stored.ids) if stored else 0, new_rows, changed, texts_only, drawn)


def _smallest(keys: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The smallest keys and their places, both in the order of the places."""
    places = np.arange(len(keys)) if len(keys) <= count else np.sort(np.argpartition(keys, count)[:count])
    return keys[places], places


@dataclass(frozen=True)
class LoadedSample:
    """A loaded sample, with the cost of loading it.

    Attributes:
        sizes: for each row the bytes that were read, 0 if it could not be fetched.
        cpu_s: for each row the CPU seconds to decode, resize and digest it.
        errors: type → rows of the sample that could not be read as an image.
        s3_rows: rows that are objects on S3 of their own, and not members of a tar, many of which are read together.
        embedded_rows: rows whose image is in a table.
        pixels: the images that could be read, (448, 448, 3) uint8 each.
    """

    sizes: list[int]
    cpu_s: list[float]
    errors: Counter[str]
    s3_rows: int
    embedded_rows: int
    pixels: list[Pixels]


def load_sample(rows: pa.Table, fetching: FetchOptions, decoding: DecodeOptions) -> LoadedSample:
    """Fetch and decode rows with the columns of `IMAGE_ROWS`, as a job would."""
    # Embedded images are read in the order of the file, so each row group is read once.
    order = ("source_file", "source_row_group", "source_row")
    listed = rows.sort_by([(column, "ascending") for column in order]).to_pylist()
    sizes: list[int] = []
    cpu_s: list[float] = []
    pixels: list[Pixels] = []
    errors: Counter[str] = Counter()
    with ChildDecoder(decoding) as child:
        for data in fetch_many(map(image_source, listed), fetching):
            if isinstance(data, ImageError):
                errors[data.error_type] += 1
                sizes.append(0)
                cpu_s.append(0.0)
                continue
            before_s, began_s = child.cpu_s, time.thread_time()
            hashlib.sha256(data)
            hashed_s = time.thread_time() - began_s
            try:
                image = child.decode(data)
                if not pixels:  # the first image includes the import of its decoder, so it is decoded and timed again
                    before_s = child.cpu_s
                    child.decode(data)
                pixels.append(image.pixels)
            except ImageError as error:
                errors[error.error_type] += 1
            sizes.append(len(data))
            cpu_s.append(child.cpu_s - before_s + hashed_s)
    loose = [row["uri"] for row in listed if not row["source_file"]]
    return LoadedSample(
        sizes=sizes,
        cpu_s=cpu_s,
        errors=errors,
        s3_rows=sum(uri is not None and uri_scheme(uri) == "s3" for uri in loose),
        embedded_rows=sum(row["uri"] is None for row in listed),
        pixels=pixels,
    )


@dataclass(frozen=True)
class Timed:
    """The measured time of a model.

    Attributes:
        images: number of images that it was timed on.
        image_s: seconds an image.
        tokens: tokens generated an image, on average.
    """

    images: int
    image_s: Measured
    tokens: float = 0.0


def time_scores(model: ArtiMuse, pixels: list[Pixels]) -> Timed:
    """Time a loaded model's scoring, in full batches; a small sample is repeated to fill them."""
    size = model.batch_size
    least = max(_LEAST_BATCHES, -(-len(pixels) // size))
    batch_s: list[float] = []
    began = time.perf_counter()
    for batch in islice(_batches(pixels, size), least):
        start = time.perf_counter()
        model.score_pixels(batch)
        batch_s.append((time.perf_counter() - start) / len(batch))
        if time.perf_counter() - began > _LONGEST_S:
            break
    warm = batch_s[1:] if len(batch_s) > 2 else batch_s  # the first batch chooses kernels and allocates buffers
    return Timed(size * len(warm), mean(warm))


def _batches(pixels: list[Pixels], size: int) -> Iterator[Pixels]:
    pictures = cycle(pixels)
    while True:
        yield np.stack(list(islice(pictures, size)))


def time_texts(model: ArtiMuse, pixels: list[Pixels], texts: TextSettings) -> Timed:
    """Time a loaded model's scoring and describing: of two pictures on a CPU, of all on a GPU.

    In so short a run, its end, when fewer and fewer texts are left, has a large part; so a job is faster than this.
    """
    chosen = pixels[:_DESCRIBED_ON_CPU] if model.model.device.type == "cpu" else pixels
    asked = {"attributes": texts.titles, "max_new_tokens": texts.max_new_tokens}
    start = time.perf_counter()
    described = [answer for _, answer in model.describe_each(chosen, **asked)]  # type: ignore[arg-type]
    image_s = (time.perf_counter() - start) / len(chosen)
    tokens = mean([float(sum(answer.token_counts.values())) for answer in described])
    # Pictures are described together, so none has a time of its own: the margin comes from their numbers of tokens.
    return Timed(len(chosen), Measured(image_s, image_s * tokens.margin / max(tokens.value, 1.0)), tokens.value)
