"""Random damage to all that comes from elsewhere: pictures, manifests, benchmark files, checkpoints.

    python tests/support/fuzz.py [--cases 20000] [--seed 0]

A case takes a file of a corpus (real ones, and hostile ones), damages it in a few places, and reads it as a run does.
Only a result or an error of ours may come out, in bounded time. `test_fuzz.py` tries some hundreds in every test run;
`docs/reliability.md` has the counts of a long one.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `support`, wherever this is started

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from support.colour_profiles import cmyk_profile, display_p3
from support.golden import golden_checkpoint, golden_images
from support.hostile_pictures import ANIMATED_JXL, HOSTILE
from support.raw_files import dng, nef

from artimuse_actor.checkpoint.checkpoint import Checkpoint
from artimuse_actor.errors import ArtiMuseError, CheckpointError, ImageError, ManifestError
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.options import DecodeOptions
from artimuse_actor.protocol.tokenizer import load_tokenizer
from jobs.manifest.source import open_manifest

SLOW_S: Final = 20.0
_ODD_BYTES: Final = (
    *(b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0"),
    *(b"II*\0", b"PAR1"),
)
_ODD_TEXTS: Final = (
    *(b"null", b"-1", b"1e999", b"NaN", b'"\\ud800"', b'"\\u0000"', b"true", b"{}"),
    *(b"[" * 2000, b"9" * 400),
)


@dataclass
class Target:
    """One reader, and what it is given.

    Attributes:
        name: what is read.
        corpus: name → bytes.
        read: reads damaged bytes of a file of that name.
        error: the only error that may come out.
        outcomes: how often what came out.
        slowest_s: the longest that one case took.
    """

    name: str
    corpus: Mapping[str, bytes]
    read: Callable[[str, bytes], object]
    error: type[ArtiMuseError]
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0

    def attempt(self, name: str, data: bytes) -> None:
        """Read one damaged file; any other exception goes on, and so does what takes too long."""
        began = time.perf_counter()
        try:
            self.read(name, data)
            self.outcomes["read"] += 1
        except self.error as error:
            self.outcomes["refused"] += 1
            text = str(error)
            assert text.endswith("."), text
            assert text.isprintable(), text
            assert len(text) < 2_000, text
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began)
        assert self.slowest_s < SLOW_S

    def run(self, cases: int, number: int) -> None:
        """Try so many cases."""

        @seed(number)
        @settings(
            max_examples=cases,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.sampled_from(sorted(self.corpus)), damages())
        def attempt(name: str, damage: Sequence[tuple[str, float, float, bytes]]) -> None:
            self.attempt(name, damaged(self.corpus[name], damage))

        attempt()


def damages() -> st.SearchStrategy[list[tuple[str, float, float, bytes]]]:
    """A change of a file: kind, place, length and bytes."""
    share = st.floats(0, 1, exclude_max=True)
    # Most of what readers trust stands at the beginning or at the end.
    where = st.one_of(share, st.floats(0, 0.02), st.floats(0.98, 1, exclude_max=True))
    what = st.one_of(st.sampled_from(_ODD_BYTES + _ODD_TEXTS), st.binary(min_size=1, max_size=8))
    kinds = st.sampled_from(["overwrite", "overwrite", "insert", "delete", "repeat", "cut"])
    return st.lists(st.tuples(kinds, where, st.floats(0, 0.05), what), max_size=6)


def damaged(data: bytes, damage: Sequence[tuple[str, float, float, bytes]]) -> bytes:
    """The file with all that done to it."""
    for kind, where, share, what in damage:
        at = int(where * len(data))
        length = max(1, int(share * len(data)))
        match kind:
            case "overwrite":
                data = data[:at] + what + data[at + len(what) :]
            case "insert":
                data = data[:at] + what + data[at:]
            case "delete":
                data = data[:at] + data[at + length :]
            case "repeat":
                data = data[:at] + 2 * data[at : at + length] + data[at + length :]
            case "cut":
                data = data[:at]
    return data


@contextmanager
def targets() -> Iterator[list[Target]]:
    """All readers, with their corpora."""
    options = DecodeOptions(max_pixels=4_000_000, decoder_timeout_s=5.0)
    with tempfile.TemporaryDirectory() as folder, ChildDecoder(options) as child:
        pictures = {path.name: path.read_bytes() for path in golden_images()}
        pictures |= _other_pictures()
        pictures |= {name: data for name, (make, _) in HOSTILE.items() if len(data := make()) < 100_000}
        yield [
            Target("pictures", pictures, lambda _, data: child.decode(data), ImageError),
            Target("Parquet manifests", _manifests(), _manifest_reader(Path(folder, "m.parquet")), ManifestError),
            Target("`test.json`", _benchmark_files(), _manifest_reader(Path(folder, "test.json")), ManifestError),
            Target("checkpoints", _checkpoint_files(), _checkpoint_reader(Path(folder)), CheckpointError),
        ]


def _other_pictures() -> dict[str, bytes]:
    """Formats that are not among the golden pictures, and colour profiles."""
    with Image.open(golden_images()[3]) as golden:
        photo = golden.convert("RGB").resize((96, 64))

    def encoded(image: Image.Image, file_format: str, **arguments: object) -> bytes:
        file = io.BytesIO()
        image.save(file, file_format, **arguments)
        return file.getvalue()

    rotated = Image.Exif()
    rotated[0x0112] = 6
    return {
        "a.heic": encoded(photo, "HEIF", exif=rotated.tobytes()),
        "tiles.heic": encoded(photo.convert("RGBA"), "HEIF", grid_tile_size=64),
        "a.jxl": encoded(photo, "JXL", use_container=True, exif=rotated.tobytes()),
        "bare.jxl": encoded(photo.convert("RGBA"), "JXL", lossless=True),
        "animated.jxl": ANIMATED_JXL,
        "a.dng": dng(),
        "a.nef": nef(),
        "p3.jpg": encoded(photo, "JPEG", icc_profile=display_p3(), exif=rotated),
        "cmyk.tif": encoded(photo.convert("CMYK"), "TIFF", icc_profile=cmyk_profile()),
        "a.gif": encoded(photo, "GIF", save_all=True, append_images=[photo.rotate(180)]),
        "a.avif": encoded(photo, "AVIF"),
    }


def _manifests() -> dict[str, bytes]:
    uris = [f"photos/{number}.jpg" for number in range(300)]
    image = [{"bytes": bytes(20), "path": uri} for uri in uris]
    tables = {
        "uris": pa.table({"uri": uris, "version": ["1"] * 300, "gt_score": [float(n) for n in range(300)]}),
        "ids": pa.table({"image_id": uris, "uri": pa.array(uris, pa.large_string())}),
        "dictionary": pa.table({"uri": pa.array(uris).dictionary_encode()}),
        "embedded": pa.table({"image": image}),
        "empty": pa.table({"uri": pa.array([], pa.string())}),
    }
    files = {}
    for name, table in tables.items():
        for compression in ("none", "zstd"):
            sink = io.BytesIO()
            pq.write_table(table, sink, row_group_size=100, compression=compression, write_page_index=name == "uris")
            files[f"{name} {compression}"] = sink.getvalue()
    return files


def _benchmark_files() -> dict[str, bytes]:
    rows: list[dict[str, object]] = [{"image": f"{number}.jpg", "gt_score": number / 7} for number in range(20)]
    rows += [{"image": "a/b c.png", "gt_score": None}, {"image": "é\u0000.jpg"}, {"image": "0.jpg", "gt_score": 3}]
    return {"rows": json.dumps(rows).encode(), "escaped": json.dumps(rows, indent=1).encode(), "none": b"[]"}


def _manifest_reader(path: Path) -> Callable[[str, bytes], object]:
    def read(_: str, data: bytes) -> object:
        path.write_bytes(data)
        return [batch.rows.to_pylist() for batch in open_manifest(str(path)).batches()]

    return read


def _checkpoint_files() -> dict[str, bytes]:
    folder = golden_checkpoint("artimuse")
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".txt", ".safetensors")
    }


def _checkpoint_reader(folder: Path) -> Callable[[str, bytes], object]:
    def read(name: str, data: bytes) -> object:
        with tempfile.TemporaryDirectory(dir=folder) as copy:
            for path in golden_checkpoint("artimuse").iterdir():
                if path.name != name:
                    os.symlink(path, Path(copy, path.name))
            Path(copy, name).write_bytes(data)
            return Checkpoint(Path(copy)).digest, load_tokenizer(Path(copy))

    return read


def main(arguments: list[str] | None = None) -> int:
    """Damage files, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000, help="of each reader (default 20000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose name holds this")
    options = parser.parse_args(arguments)
    print("| reader | files | cases | read | refused | slowest (s) |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    with targets() as readers:
        for target in readers:
            if options.only not in target.name:
                continue
            target.run(options.cases, options.seed)
            read, refused = target.outcomes["read"], target.outcomes["refused"]
            print(
                f"| {target.name} | {len(target.corpus)} | {read + refused:,} | {read:,} | {refused:,} "
                f"| {target.slowest_s:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
