from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from artimuse_actor.errors import ImageError
from artimuse_actor.fetch.fetch import fetch_many
from artimuse_actor.fetch.options import FetchOptions
from jobs.score.image_source import image_source
from jobs.storage import embedded_images
from jobs.storage.embedded_images import embedded_image


@pytest.fixture(autouse=True)
def _nothing_is_open() -> None:
    embedded_images._rows.cache_clear()


def one_image_many_times(path: Path, size_bytes: int, rows: int) -> str:
    """A file of a few kilobytes that stands for `rows` images."""
    images = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([b"a" * size_bytes]))
    # Without the type of Arrow, which says that it is a dictionary.
    pq.write_table(pa.table({"image": images}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 100_000
    return str(path)


def rows_of(path: str, count: int) -> list[dict[str, Any]]:
    known = {"uri": None, "source_file": path, "source_version": None, "source_row_group": 0}
    known |= {"source_column": "image", "source_item": None}
    return [{**known, "source_row": row} for row in range(count)]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.struct([("bytes", pa.binary())])], ids=str)
def test_rows_come_in_any_order(tmp_path: Path, kind: pa.DataType) -> None:
    images: list[Any] = [b"a", b"bb", None, b"", b"e" * 1000]
    column = [{"bytes": image} for image in images] if pa.types.is_struct(kind) else images
    pq.write_table(
        pa.table({"other": range(5), "image": pa.array(column, kind)}), tmp_path / "a.parquet", row_group_size=3
    )
    for number in (0, 1, 2, 3, 4, 2, 0, 4, 4, 3, 1):
        assert embedded_image(str(tmp_path / "a.parquet"), None, *divmod(number, 3)) == images[number]


def test_a_small_file_that_stands_for_gigabytes_is_read_image_by_image(tmp_path: Path) -> None:
    path = one_image_many_times(tmp_path / "m.parquet", 1_000_000, 5_000)
    before = pa.total_allocated_bytes()
    for row in (0, 1, 2, 100):
        assert embedded_image(path, None, 0, row) == b"a" * 1_000_000
        assert pa.total_allocated_bytes() - before < 20_000_000


def test_embedded_images_that_wait_for_their_turn_keep_to_the_limit(tmp_path: Path) -> None:
    path = one_image_many_times(tmp_path / "m.parquet", 1_000_000, 60)
    taken = []

    def sources() -> Any:
        for source in map(image_source, rows_of(path, 60)):
            taken.append(source)
            yield source

    for number, data in enumerate(fetch_many(sources(), FetchOptions(held_bytes=2_500_000)), start=1):
        assert data == b"a" * 1_000_000
        assert len(taken) - number <= 3
    assert len(taken) == 60


def test_an_image_beyond_the_memory_limit_is_an_error_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "m.parquet")
    pq.write_table(pa.table({"image": [b"a", b"b", b"c", b"d"]}), path, row_group_size=3)

    def refuses_the_second(batches: Iterator[Any]) -> Iterator[Any]:
        yield next(batches)
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(embedded_images, "limited", refuses_the_second)
        first, *others = map(image_source, rows_of(path, 3))
    assert first == b"a"
    for other in others:
        assert isinstance(other, ImageError)
        assert (other.error_type, other.retryable) == ("too_large", False)
        assert "To read row 1 of its row group" in other.message
        assert "more than 2,147,483,648 bytes of memory" in other.message
    assert embedded_image(path, None, 1, 0) == b"d"


def test_a_thread_beside_a_model_does_not_limit_the_memory_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"image": [b"a"]}), tmp_path / "m.parquet")
    monkeypatch.setattr(embedded_images, "limited", None)
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(embedded_image, str(tmp_path / "m.parquet"), None, 0, 0).result() == b"a"


@pytest.mark.parametrize(
    ("table", "error_type"),
    [
        ({"image": [b"a"]}, "fetch_failed"),  # fewer rows
        ({"other": [b"a", b"b"]}, "fetch_failed"),
        ({"image": ["/etc/passwd", "https://h/a.jpg"]}, "missing"),  # never a name to read from
        ({"image": [{"path": "/etc/passwd"}] * 2}, "missing"),
        (None, "missing"),
    ],
)
def test_a_file_that_was_replaced_gives_error_rows(tmp_path: Path, table: Any, error_type: str) -> None:
    if table is not None:
        pq.write_table(pa.table(table), tmp_path / "m.parquet")
    source = image_source(rows_of(str(tmp_path / "m.parquet"), 2)[-1])
    assert isinstance(source, ImageError)
    assert source.error_type == error_type
