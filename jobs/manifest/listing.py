"""The files that a folder, a prefix or a pattern names."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final
from urllib.parse import quote_from_bytes

from artimuse_actor.errors import ArtiMuseError, ImageError, ManifestError, message_of
from artimuse_actor.fetch.fetch import look_at
from artimuse_actor.fetch.local import local_version
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.uris import in_bucket, shown_uri, uri_scheme, user_path
from jobs.manifest.braces import above_braces, expand_braces, has_braces
from jobs.manifest.manifest import Coverage
from jobs.storage.buckets import find_objects, object_version
from jobs.storage.place import READ_THREADS
from jobs.words import by_count, one_line_name

IMAGE_SUFFIXES: Final = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff", "avif"),
        *("jp2", "j2k", "jpx", "jpf", "j2c", "jpc", "ppm", "pgm", "pbm", "pnm"),
        *("heic", "heif", "hif", "heics", "heifs", "jxl"),
        *("cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "srf", "dng", "orf", "raf", "rw2", "rwl", "pef", "srw"),
        *("3fr", "fff", "erf", "dcr", "kdc", "mef", "mos", "iiq", "mrw", "x3f"),
    )
)
# Pictures that cannot be decoded but must not be skipped silently: each becomes a row that says why it has no score.
UNREADABLE_SUFFIXES: Final = frozenset(f".{suffix}" for suffix in ("svg", "psd", "eps", "xcf", "ico", "tga"))
THUMBNAIL_FOLDERS: Final = frozenset(("@eaDir", ".@__thumb", ".thumbnails", ".thumbs", ".thumb"))
"""Folders in which the software of file servers, desktops and phones keeps small copies of the pictures beside them."""

A_STORE: Final = " (a store)"
"""Behind the name of a folder that was not listed since it is one."""
STORE_FILE: Final = "_store.json"
"""What makes a folder a store, see `jobs.store.layout`, whose tables are no manifests."""


@dataclass(frozen=True)
class ListedFile:
    """One file of a source.

    Attributes:
        path: to read it from: a local path, or the uri of an object or a file.
        image_id: its path relative to the folder or prefix.
        size_bytes: its length; None if that cannot be read.
        version: size and mtime, or etag.
    """

    path: str
    image_id: str
    size_bytes: int | None
    version: str | None


@dataclass
class Listing:
    """Files below a folder, or those that a pattern names.

    Attributes:
        named: all of them, sorted.
        by_pattern: whether the user gave a file name or a pattern rather than a folder.
        root: the folder or prefix that was listed; None for a file name or a pattern.
        unlisted: folders that could not be listed.
        empty: folders with nothing in them.
        thumbnails: name of a folder of thumbnails → number of such folders, which were not looked into.
        skipped: suffix → number of files without an image suffix.
        pictures: the other files.
    """

    named: list[ListedFile]
    by_pattern: bool
    root: str | None = None
    unlisted: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    thumbnails: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    pictures: list[ListedFile] = field(default_factory=list)

    def __post_init__(self) -> None:
        ids = {file.image_id for file in self.named}
        if len(ids) < len(self.named):  # a name that is not UTF-8, beside one that spells its escape
            self.named = [
                replace(file, image_id=f"{file.image_id} (not UTF-8)") if file.path.startswith("file://") else file
                for file in self.named
            ]
        for file in self.named:
            suffix = os.path.splitext(file.path)[1].lower()
            if suffix in IMAGE_SUFFIXES or suffix in UNREADABLE_SUFFIXES:
                self.pictures.append(file)
            else:
                self.skipped[suffix or "without a suffix"] += 1

    @property
    def unseen(self) -> tuple[str, ...]:
        """Folders that may have files which are not named, each also as a name is written that is not UTF-8."""
        folders = [re.sub(r" \(a (link|store)\)$", "", folder) for folder in (*self.unlisted, *self.empty)]
        root = self.root or ""
        below = [f"{root}/{_quoted(os.path.relpath(folder, root))}" for folder in folders if root]
        return tuple(dict.fromkeys([*folders, *below, *(f"file://{_quoted(folder)}" for folder in folders)]))

    @property
    def coverage(self) -> Coverage | None:
        """See `Manifest`."""
        return None if self.root is None else Coverage(self.root.rstrip("/"), self.unseen)

    def notes(self) -> list[str]:
        """Sentences for the user about files that were left out."""
        notes = [f"Left out, not looked into: {one_line_name(folder)}." for folder in self.unlisted]
        if self.thumbnails:
            notes.append(f"Left out, folders of thumbnails: {by_count(self.thumbnails)}.")
        if self.skipped and not self.by_pattern:
            kinds = by_count({one_line_name(suffix): count for suffix, count in self.skipped.items()}, at_most=8)
            notes.append(f"Left out, not being called like images: {kinds}.")
        return notes


def list_files(source: str) -> Listing:
    """Files of a folder, prefix, name or pattern, in a bucket or on a disk. Raises ManifestError."""
    return list_bucket(source) if in_bucket(source) else list_local(source)


def list_local(source: str) -> Listing:
    """Files of a local folder, name or pattern. Raises ManifestError."""
    path = user_path(source)
    if os.path.isdir(path):
        listing = Listing([], by_pattern=False, root=os.path.abspath(path))
        return replace(listing, named=list(_walk(listing)))
    if os.path.lexists(path):
        return Listing([local_file(os.path.abspath(path), os.path.dirname(os.path.abspath(path)))], by_pattern=True)
    if not glob.has_magic(path):
        raise ManifestError(f"{source}: there is no such file or folder.")
    base = os.path.abspath(_fixed_part(path))
    skipped: set[str] = set()
    names = {os.path.abspath(name) for name in _matching(path, skipped) if not os.path.isdir(name)}
    if not names:
        raise ManifestError(f"{source}: no file matches this pattern.")
    return Listing([local_file(name, base) for name in sorted(names)], by_pattern=True, unlisted=sorted(skipped))


def _matching(pattern: str, skipped: set[str]) -> Iterator[str]:
    """The paths that match; `**` goes through no link to a folder, unlike that of `glob`, which follows circles.

    Adds links that it passed by to `skipped`.
    """
    before, recursive, after = f"/{pattern}/".partition("/**/")
    if not recursive:
        yield from glob.iglob(pattern)
        return
    above = before.removeprefix("/") or ("/" if pattern.startswith("/") else ".")
    for top in glob.iglob(above):
        for parent, folders, names in os.walk(top):
            folders[:] = [name for name in folders if not _is_left_out(name)]
            links = (path for name in folders if os.path.islink(path := os.path.join(parent, name)))
            skipped.update(f"{path} (a link)" for path in links)
            if rest := after.strip("/"):
                yield from _matching(os.path.join(glob.escape(parent), rest), skipped)
            else:
                yield from (os.path.join(parent, name) for name in names if not name.startswith("."))


def _walk(listing: Listing) -> Iterator[ListedFile]:
    """All files below its root whose names do not begin with a dot; notes folders that it cannot list, or are empty."""
    root, unlisted = listing.root or "/", listing.unlisted
    for parent, folders, names in os.walk(root, onerror=lambda error: unlisted.append(str(error.filename))):
        if not folders and not names:
            listing.empty.append(parent)
        if STORE_FILE in names and parent != root:  # its tables are no manifests
            unlisted.append(f"{parent}{A_STORE}")
            folders.clear()
            continue
        listing.thumbnails.update(THUMBNAIL_FOLDERS.intersection(folders))
        folders[:] = sorted(name for name in folders if not _is_left_out(name))
        # A link to a folder could lead in a circle, or to pictures that are listed already.
        linked = [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
        unlisted.extend(f"{path} (a link)" for path in linked)
        # A folder with an image suffix becomes a row, so that it is reported; the files in it are listed all the same.
        names += [name for name in folders if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
        for name in sorted(names):
            if not name.startswith("."):
                yield local_file(os.path.join(parent, name), root)


def _is_left_out(folder: str) -> bool:
    return folder.startswith(".") or folder in THUMBNAIL_FOLDERS


def local_file(path: str, base: str) -> ListedFile:
    """A file as it is on the disk now; size and version are None if it cannot be read."""
    relative = os.path.relpath(path, base)
    try:
        status = os.stat(path)
        size, version = status.st_size, local_version(status)
    except (OSError, ValueError):  # a dangling link, or a NUL in the name: loading it will make an error row
        size, version = None, None
    try:
        path.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8 is written percent-encoded, as a file:// uri
        path, relative = f"file://{_quoted(path)}", _quoted(relative)
    return ListedFile(path, relative, size, version)


def _quoted(path: str) -> str:
    return quote_from_bytes(os.fsencode(path))


def list_bucket(source: str) -> Listing:
    """Objects of a prefix, name or pattern. Raises ManifestError."""
    pattern, scheme = glob.has_magic(source), uri_scheme(source)
    base = (_fixed_part(source) if pattern else source).partition("://")[2].rstrip("/")
    try:
        found = find_objects(source, is_pattern=pattern)
    except FileNotFoundError:
        found = {}
    except ArtiMuseError:
        raise
    except Exception as error:
        raise ManifestError(
            f"{source}: cannot be listed: {message_of(error)}. Check name, endpoint, permissions and credentials."
        ) from error
    if not found:
        raise ManifestError(f"{source}: there is no such object or prefix, or nothing in it.")
    single = list(found) == [base]
    root = os.path.dirname(base) if single else base
    stores = tuple(  # but one that is beside the images
        key.removesuffix(STORE_FILE)
        for key in found
        if key.endswith(f"/{STORE_FILE}") and key != f"{root}/{STORE_FILE}"
    )
    by_pattern = pattern or single
    small = {key: folder for key in found if (folder := _thumbnails_above(key[len(root) :]))} if not by_pattern else {}
    files = [
        ListedFile(
            f"{scheme}://{key}",
            key.removeprefix(f"{root}/"),
            info["size"],
            str(info.get("ETag", "")).strip('"') or None,
        )
        for key, info in sorted(found.items())
        if info["type"] == "file"
        and not key.endswith("/")
        and not os.path.basename(key).startswith(".")
        and not key.startswith(stores)
        and key not in small
    ]
    thumbnails = Counter(os.path.basename(folder) for folder in set(small.values()))
    return Listing(
        files, by_pattern=by_pattern, root=None if by_pattern else f"{scheme}://{base}", thumbnails=thumbnails
    )


def _thumbnails_above(key: str) -> str | None:
    """The outermost folder of thumbnails that an object is in."""
    folders = key.split("/")[:-1]
    places = [place for place, name in enumerate(folders) if name in THUMBNAIL_FOLDERS]
    return "/".join(folders[: places[0] + 1]) if places else None


def list_braces(source: str) -> Listing:
    """Local files or objects of all names that one with braces stands for. Raises ManifestError if one is missing."""
    is_object = in_bucket(source)
    names = expand_braces(source)
    with ThreadPoolExecutor(READ_THREADS) as pool:
        found = list(pool.map(list_files, names))
    above = above_braces(source)
    base = above if is_object else os.path.abspath(user_path(above))
    files = [
        replace(file, image_id=file.path.removeprefix(f"{base}/")) if is_object else local_file(file.path, base)
        for listing in found
        for file in listing.named
    ]
    return Listing(files, by_pattern=True)


def list_web(source: str, fetching: FetchOptions) -> Listing:
    """Files of web servers of all names that an http(s) uri, perhaps with braces, stands for. Raises ManifestError."""

    def look(name: str) -> ListedFile:
        try:
            found = look_at(name, fetching)
        except ImageError as error:
            raise ManifestError(f"{shown_uri(name)}: {error}") from error
        relative = name.partition("?")[0].removeprefix(f"{base}/")
        return ListedFile(name, relative, found.size_bytes, found.version)

    base = above_braces(source) if has_braces(source) else os.path.dirname(source.partition("?")[0])
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return Listing(list(pool.map(look, expand_braces(source))), by_pattern=True)


def version_of(path: str) -> str | None:
    """The version of a listed file as it is now; None if it cannot be told. Raises OSError."""
    if in_bucket(path):
        return object_version(path)
    local = user_path(path)
    return local_file(local, os.path.dirname(local)).version


def _fixed_part(pattern: str) -> str:
    """The folder above the first component with a `*`, `?` or `[`."""
    parts = pattern.split("/")
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:fixed]) or ("/" if pattern.startswith("/") else ".")
