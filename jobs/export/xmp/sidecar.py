"""One sidecar: what an export makes of its bytes, what it leaves to people, and how its own part is taken out again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from artimuse_actor.whole_file import whole_file
from jobs.export.xmp.journal import Entry, digest_of
from jobs.export.xmp.packet import DESCRIPTION, OURS, PREFIXES, Name, NotXmpError, Packet

RATING: Final = ("http://ns.adobe.com/xap/1.0/", "Rating")
_OUR_RATING: Final = (OURS, "stars")
_OUR_DESCRIPTION: Final = (OURS, "description")
_LARGEST_BYTES: Final = 32 * 1024**2


class SidecarError(Exception):
    """A sidecar that is left as it is; the message says why, in few words."""


@dataclass(frozen=True)
class Wanted:
    """The properties of one picture.

    Attributes:
        rating: the value of `xmp:Rating`.
        description: the value of `dc:description`; None to leave it alone.
        ours: properties of our namespace, by name.
    """

    rating: str
    description: str | None
    ours: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """One sidecar that an export changes.

    Attributes:
        path: its path.
        before: its bytes; None if there is none.
        after: its bytes then; None to delete it.
        keeps_rating: whether a person's rating stays.
        came_from: where it was when it was written, if its folder was renamed since.
    """

    path: str
    before: bytes | None
    after: bytes | None
    keeps_rating: bool = False
    came_from: tuple[str, ...] = ()

    @property
    def is_one(self) -> bool:
        """Whether anything changes."""
        return self.before != self.after

    @property
    def entry(self) -> Entry:
        """The entry of the journal."""
        return Entry(self.path, self.before, digest_of(self.after or b""))

    def diff(self) -> list[str]:
        """The properties that change, for people."""
        old, new = (Packet(data) for data in (self.before, self.after))
        state = "new" if self.before is None else "deleted" if self.after is None else "changed"
        lines = [f"{self.path} ({state})"]
        for name in dict.fromkeys([RATING, DESCRIPTION, *old.names(OURS), *new.names(OURS)]):
            if old.get(name) != new.get(name):
                shown = f"{PREFIXES[name[0]]}:{name[1]}"
                lines += [f"  - {shown} {old.get(name)}"] if old.get(name) is not None else []
                lines += [f"  + {shown} {new.get(name)}"] if new.get(name) is not None else []
        return lines

    def write(self) -> None:
        """Make the change, whole or not at all. Raises SidecarError."""
        try:
            if self.after is None:
                os.unlink(self.path)
                return
            with whole_file(self.path) as growing:
                with open(growing, "wb") as file:
                    file.write(self.after)
                if self.before is not None:
                    shutil.copymode(self.path, growing)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise SidecarError("in folders that cannot be written to") from error
            raise SidecarError(f"that cannot be written: {error.strerror}") from error


def read_sidecar(path: str) -> bytes | None:
    """The bytes of a sidecar; None if there is none. Raises SidecarError."""
    try:
        if os.path.islink(path):
            raise SidecarError("that are links")
        if os.path.getsize(path) > _LARGEST_BYTES:
            raise SidecarError("that are too large")
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SidecarError("that cannot be read") from error


def change(path: str, wanted: Wanted, *, overwrite: bool) -> Change:
    """The change of a sidecar to the wanted properties.

    A rating or a description that is there and is not the one that the last export wrote is a person's, and stays,
    unless it is to be overwritten. `xmp:Rating` 0 means unrated.

    Raises:
        SidecarError: it cannot be read.
    """
    before = read_sidecar(path)
    packet = _packet(before)
    ours = packet.get(_OUR_RATING)
    keeps_rating = not overwrite and _has_rating_of_a_person(packet)
    values: dict[Name, str | None] = {(OURS, name): None for _, name in packet.names(OURS)}
    values |= {(OURS, name): value for name, value in wanted.ours.items()}
    values[_OUR_RATING] = ours if keeps_rating else wanted.rating
    if not keeps_rating:
        values[RATING] = wanted.rating
    if _OUR_DESCRIPTION in values:
        values[_OUR_DESCRIPTION] = packet.get(_OUR_DESCRIPTION)
    if wanted.description is not None and (overwrite or _has_no_description_of_a_person(packet)):
        values[DESCRIPTION] = wanted.description
        values[_OUR_DESCRIPTION] = digest_of(wanted.description.encode())[:16]
    after = packet.changed(values)
    return Change(path, before, before if after == packet.data and before is not None else after, keeps_rating)


def rated(path: str, rating: str, *, overwrite: bool) -> Change:
    """The change of a sidecar to a rating that a person gives: later exports leave it as it is.

    One that a person gave before stays, unless it is to be overwritten.

    Raises:
        SidecarError: it cannot be read.
    """
    before = read_sidecar(path)
    packet = _packet(before)
    if not overwrite and packet.get(RATING) is not None and _has_rating_of_a_person(packet):
        return Change(path, before, before, keeps_rating=packet.get(RATING) != rating)
    after = packet.changed({RATING: rating, _OUR_RATING: None})
    return Change(path, before, before if after == packet.data and before is not None else after)


def taken_back(path: str, entries: list[Entry], others: Mapping[str, Entry]) -> Change:
    """The change that takes an export back: to the bytes of before, or, if others wrote since, without our properties.

    Args:
        path: of the sidecar.
        entries: what was written there.
        others: digest of what was written → a sidecar of any name, since this one may have moved with its picture.

    Raises:
        SidecarError: it cannot be read, or is not there: so it is where a disk is not mounted, or a folder was renamed.
    """
    before = state = read_sidecar(path)
    if before is None:
        if entries[0].before is None and _has_files(os.path.dirname(path)):  # deleted, by an earlier undo or a person
            return Change(path, None, None)
        raise SidecarError("that are not there")
    left, seen, came_from = list(entries), set[str](), list[str]()
    while state is not None:
        digest = digest_of(state)
        last = next((entry for entry in reversed(left) if entry.after == digest), None)
        if last is None and digest not in seen and _packet(state).names(OURS):
            last = others.get(digest)  # what a person gave may have the same bytes elsewhere
            came_from += [last.sidecar] if last else []
        if last is None:
            break
        left = [entry for entry in left if entry is not last]
        seen.add(digest)
        state = last.before
    packet = Packet() if state is None else _packet(state)
    if not packet.names(OURS):
        return Change(path, before, state, came_from=tuple(came_from))
    original = next((old for old in (_packet(entry.before) for entry in entries) if not old.names(OURS)), Packet())
    values: dict[Name, str | None] = dict.fromkeys(packet.names(OURS))
    if packet.get(RATING) == packet.get(_OUR_RATING):
        values[RATING] = original.get(RATING)
    if packet.get(_OUR_DESCRIPTION) is not None and _has_no_description_of_a_person(packet):
        values[DESCRIPTION] = original.get(DESCRIPTION)
    return Change(path, before, packet.changed(values), came_from=tuple(came_from))


def _has_files(folder: str) -> bool:
    """Whether a folder is there, and not empty like one whose disk is not mounted."""
    try:
        return bool(os.listdir(folder))
    except OSError:
        return False


def _has_rating_of_a_person(packet: Packet) -> bool:
    rating, ours = packet.get(RATING), packet.get(_OUR_RATING)
    if rating is None:
        return ours not in (None, "0")
    return rating != ours and not (ours is None and rating == "0")


def _has_no_description_of_a_person(packet: Packet) -> bool:
    text = packet.get(DESCRIPTION)
    return not text or digest_of(text.encode())[:16] == packet.get(_OUR_DESCRIPTION)


def _packet(data: bytes | None) -> Packet:
    try:
        return Packet(data)
    except NotXmpError as error:
        raise SidecarError("that are no XMP") from error
