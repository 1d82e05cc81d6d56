"""The target of a curation, and its atomic writing: complete or not at all.

    best.parquet (.jsonl, .csv)         the rows
    best.parquet.funnel.json            what each step removed
    best.parquet.groups.parquet         what --dedupe joined

    best/manifest.parquet (…)           the same in a folder, which can also hold images
    best/images/00000/00000042.jpg      --copy
    best/00000.tar                      --as webdataset
    best/__curation/funnel.json, groups.parquet      pyarrow passes over names with `_`, Hugging Face those with `__`

All of it is made aside first. On a disk a file takes its name, and a folder takes its, when it is complete; on S3 the
objects are put one by one, the manifest and the funnel last. A target is replaced only if the funnel beside it says
that it is a curation's own, and nothing else lies in it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from artimuse_actor.errors import CurationError, StoreError, UsageError
from artimuse_actor.whole_file import rename_whole, sync
from jobs.curate.row_writers import SUFFIXES
from jobs.storage.place import Place
from jobs.storage.places import open_place
from jobs.storage.s3_place import s3_filesystem
from jobs.store.layout import METRICS, SCORES, TEXTS
from jobs.store.stores import Stores
from schemas.curation import CURATION_MARK

KINDS: Final = (*SUFFIXES, "webdataset")
FUNNEL: Final = "__curation/funnel.json"
GROUPS_FILE: Final = "__curation/groups.parquet"
_OURS: Final = re.compile(
    r"manifest\.(parquet|jsonl|csv)|images/\d{5}/\d{8}\.\w+|\d{5}\.tar|__curation/(funnel\.json|groups\.parquet)"
)


@dataclass(frozen=True)
class Target:
    """The target of a curation.

    Attributes:
        out: as the user gave it.
        kind: of `KINDS`.
        folder: whether it is one, and not a file.
        copy: whether the images are copied into it.
    """

    out: str
    kind: str
    folder: bool
    copy: bool

    @property
    def place(self) -> Place:
        """The folder that its files are named in: the target itself, or the file's parent."""
        place = open_place(self.out)
        return place if self.folder else open_place(os.path.dirname(place.root))

    @property
    def name(self) -> str:
        """Name of the file with the rows, within the place; a data set of tar files has none."""
        return f"manifest{SUFFIXES.get(self.kind, '')}" if self.folder else os.path.basename(open_place(self.out).root)

    @property
    def funnel(self) -> str:
        """The funnel, within the place."""
        return FUNNEL if self.folder else f"{self.name}.funnel.json"

    @property
    def groups(self) -> str:
        """The groups of near-duplicates, within the place."""
        return GROUPS_FILE if self.folder else f"{self.name}.groups.parquet"

    def check_free(self) -> None:
        """Raise CurationError if something else is there."""
        place = self.place
        if not self.folder:
            if (path := place.local_path(self.name)) and os.path.isdir(path):
                raise CurationError(f"{self.out}: is a folder. Name a file, or a folder without {SUFFIXES[self.kind]}.")
            if _exists(place, self.name) and not _is_funnel(place, self.funnel):
                raise CurationError(
                    f"{self.out}: is there already and no curation wrote it ({self.funnel} is not beside it). Nothing "
                    "was written. Choose another --out, or move it away."
                )
            return
        if (path := place.local_path("")) and os.path.isfile(path):
            raise CurationError(f"{self.out}: is a file. Choose another --out.")
        files = [file.path for file in place.files("")]
        others = [path for path in files if not _OURS.fullmatch(path)]
        if others or (files and not _is_funnel(place, FUNNEL)):
            found = others[0] if others else files[0]
            raise CurationError(
                f"{self.out}: holds what no curation wrote, such as {found}. Nothing was written. Choose another "
                "--out, or empty it."
            )


def read_target(out: str, kind: str | None, copy: bool) -> Target:
    """The options `--out`, `--as` and `--copy`. Raises UsageError."""
    if kind is not None and kind not in KINDS:
        raise UsageError(f"--as takes {', '.join(KINDS[:-1])} or {KINDS[-1]}, not {kind!r}.")
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}.get(os.path.splitext(out)[1].lower())
    if by_suffix and kind and kind != by_suffix:
        raise UsageError(f"--out {out} is called like {by_suffix}, and --as says {kind}.")
    if copy and kind == "webdataset":
        raise UsageError("--as webdataset holds the images itself. Leave out --copy.")
    if by_suffix and copy:
        raise UsageError(f"--copy goes into a folder, and --out {out} is a file. Name a folder.")
    return Target(out, kind or by_suffix or "parquet", by_suffix is None, copy)


def keep_out_of_tables(option: str, out: str, stores: Stores) -> None:
    """Raise UsageError for an output that readers of a store would take for rows of it."""
    root = open_place(out).root
    for store in stores.stores:
        for table in (SCORES, TEXTS, METRICS):
            if f"{root}/".startswith(f"{store.place.uri(table)}/"):
                raise UsageError(f"{option} {out}: lies in a table of the store. Choose another place.")


class Workshop:
    """A temporary folder in which a target's files are made, under their final names."""

    def __init__(self, target: Target, folder: str) -> None:
        """Use `workshop`."""
        self.target = target
        self.folder = folder

    def path(self, name: str) -> str:
        """The path to write a file to."""
        path = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def publish(self) -> None:
        """Give the files their names."""
        names = [
            os.path.relpath(os.path.join(at, name), self.folder)
            for at, _, found in os.walk(self.folder)
            for name in found
        ]
        last = (
            [self.target.funnel, self.target.name] if not self.target.folder else [self.target.name, self.target.funnel]
        )
        names.sort(key=lambda name: (last.index(name) if name in last else -1, name))
        place = self.target.place
        root = place.local_path("")
        if root is None:
            self._put(place, names)
        elif self.target.folder:
            for name in names:
                sync(self.path(name))
            self._replace_folder(root)
        else:
            for name in names:
                rename_whole(self.path(name), os.path.join(root, name))
            if self.target.groups not in names:
                place.delete(self.target.groups)  # of a former curation with --dedupe

    def _put(self, place: Place, names: list[str]) -> None:
        before = {file.path for file in place.files("")} if self.target.folder else {self.target.groups}
        if self.target.folder:
            # From here on the target is recognised as ours, even if this run dies.
            place.write(FUNNEL, json.dumps({CURATION_MARK: "", "state": "being written"}).encode())
        for name in names:
            s3_filesystem().put_file(self.path(name), place.uri(name))
        for name in sorted(before - set(names)):
            place.delete(name)

    def _replace_folder(self, root: str) -> None:
        if os.path.isdir(root):
            os.rename(root, f"{self.folder}.old")
        os.rename(self.folder, root)
        shutil.rmtree(f"{self.folder}.old", ignore_errors=True)


@contextmanager
def workshop(target: Target) -> Iterator[Workshop]:
    """A workshop that is deleted at the end, published or not.

    Raises:
        StoreError: files cannot be written.
    """
    place = open_place(target.out)
    root = place.local_path("")
    beside = os.path.dirname(root) if root else None
    try:
        if beside:
            os.makedirs(beside, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=beside, prefix=f".{os.path.basename(place.root)}-") as outer:
            os.mkdir(folder := os.path.join(outer, "files"))
            yield Workshop(target, folder)
    except OSError as error:
        raise StoreError(f"{target.out}: cannot be written: {error}. Nothing was written.") from error


def _exists(place: Place, path: str) -> bool:
    try:
        place.open(path).close()
    except FileNotFoundError:
        return False
    return True


def _is_funnel(place: Place, path: str) -> bool:
    try:
        return CURATION_MARK in json.loads(place.read(path))
    except (FileNotFoundError, ValueError, TypeError):
        return False
