"""The target of a curation, and its atomic writing: complete or not at all.

    best.parquet (.jsonl, .csv)         the rows
    best.parquet.funnel.json            what each step removed
    best.parquet.groups.parquet         what --dedupe joined

    best/manifest.parquet (…)           the same in a folder, which can also hold images
    best/images/…, metadata.jsonl       --copy; called as their ids, and as Hugging Face's imagefolder reads them
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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from artimuse_actor.errors import CurationError, UsageError
from artimuse_actor.whole_file import rename_whole
from jobs.curate.row_writers import SUFFIXES
from jobs.storage.buckets import put_file
from jobs.storage.place import Place, exists
from jobs.storage.places import open_place
from jobs.storage.user_folder import files_below, foreign_file, growing_folder, publish_folder, put_last
from schemas.curation import CURATION_MARK

KINDS: Final = (*SUFFIXES, "webdataset")
FUNNEL: Final = "__curation/funnel.json"
GROUPS_FILE: Final = "__curation/groups.parquet"
METADATA: Final = "metadata.jsonl"
_OURS: Final = re.compile(
    r"manifest\.(parquet|jsonl|csv)|metadata\.jsonl|images/\d{5}/\d{8}\.\w+|\d{5}\.tar|"
    r"__curation/(funnel\.json|groups\.parquet)"
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
            for name in () if _is_funnel(place, self.funnel) else (self.name, self.groups, self.funnel):
                if exists(place, name):
                    raise CurationError(
                        f"{place.uri(name)}: is there already and no curation wrote it (there is no {self.funnel} of "
                        "one). Nothing was written. Choose another --out, or move it away."
                    )
            return
        if (path := place.local_path("")) and os.path.isfile(path):
            raise CurationError(f"{self.out}: is a file. Choose another --out.")
        copies = _copies(place)
        if found := foreign_file(
            place, lambda path: _OURS.fullmatch(path) or path in copies, lambda: _is_funnel(place, FUNNEL)
        ):
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
        place, target = self.target.place, self.target
        if target.folder:
            being_written = json.dumps({CURATION_MARK: "", "state": "being written"}).encode()
            publish_folder(self.folder, place, [target.name, target.funnel], (target.funnel, being_written))
            return
        names = put_last(files_below(self.folder), [target.funnel, target.groups, target.name])
        for name in names:
            if path := place.local_path(name):
                rename_whole(self.path(name), path)
            else:
                put_file(self.path(name), place.uri(name))
        if target.groups not in names:
            place.delete(target.groups)  # of a former curation with --dedupe


@contextmanager
def workshop(target: Target) -> Iterator[Workshop]:
    """A workshop that is deleted at the end, published or not.

    Raises:
        StoreError: files cannot be written.
    """
    with growing_folder(target.out) as folder:
        yield Workshop(target, folder)


def _copies(place: Place) -> frozenset[str]:
    """Paths of the images that an earlier curation copied into a folder."""
    try:
        lines = place.read(METADATA).splitlines()
        return frozenset(json.loads(line)["file_name"] for line in lines)
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return frozenset()


def _is_funnel(place: Place, path: str) -> bool:
    try:
        return CURATION_MARK in json.loads(place.read(path))
    except (FileNotFoundError, ValueError, TypeError):
        return False
