"""An XMP packet: single properties are read, and written into its bytes; every other byte stays as it is.

So whatever other programs keep in a sidecar, such as darktable's history, is untouched, known or not. A property is an
attribute or an element of an `rdf:Description`; of one with several languages the text of `x-default` counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from jobs.code_identity import CODE_VERSION

RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
OURS: Final = "urn:artimuse-batch:1.0/"
PREFIXES: Final = {
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://purl.org/dc/elements/1.1/": "dc",
    OURS: "artimuse",
}
DESCRIPTION: Final = ("http://purl.org/dc/elements/1.1/", "description")
"""The one property here that has languages."""

_LANGUAGE: Final = "http://www.w3.org/XML/1998/namespace lang xml"
_ATTRIBUTE: Final = re.compile(rb"\s+([^\s=/>]+)\s*=\s*(\"[^\"]*\"|'[^']*')")
_TAG: Final = re.compile(rb"<[^\s/>]+(?:\s+[^\s=/>]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>")
_ILLEGAL: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_EMPTY: Final = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="artimuse-batch {CODE_VERSION}">
 <rdf:RDF xmlns:rdf="{RDF}">
 </rdf:RDF>
</x:xmpmeta>
""".encode()

Name = tuple[str, str]
"""Namespace and name of a property."""


class NotXmpError(ValueError):
    """Bytes that are no XMP packet in UTF-8."""


@dataclass
class _Found:
    """A property as it stands in the bytes.

    Attributes:
        start: where it begins, with the blanks before it.
        end: where it ends.
        value_start: where its value begins; None if it has no text that could be replaced.
        value_end: where the value ends.
        value: the value.
    """

    start: int
    end: int = 0
    value_start: int | None = None
    value_end: int = 0
    value: str = ""


class Packet:
    """The properties of one sidecar.

    Attributes:
        data: its bytes.
    """

    def __init__(self, data: bytes | None = None) -> None:
        """Read the bytes of a sidecar, or begin an empty one.

        Raises:
            NotXmpError: they are none.
        """
        self.data = _EMPTY if data is None else data
        reader = _Reader(self.data)
        self._found, self._end, self._about, self._rdf = reader.found, reader.end, reader.about, reader.prefix

    def get(self, name: Name) -> str | None:
        """The text of a property; None if there is none."""
        return self._found[name].value if name in self._found else None

    def names(self, namespace: str) -> list[Name]:
        """The properties of a namespace."""
        return [name for name in self._found if name[0] == namespace]

    def changed(self, values: Mapping[Name, str | None]) -> bytes:
        """The bytes with these properties set, or without them (None); the same bytes if all are so already."""
        edits: list[tuple[int, int, bytes]] = []
        new = {}
        for name, value in values.items():
            found = self._found.get(name)
            value = None if value is None else legal(value)
            if found is None:
                if value is not None:
                    new[name] = value
            elif value is None:
                edits.append((found.start, found.end, b""))
            elif value != found.value:
                if found.value_start is None:
                    edits.append((found.start, found.end, b""))
                    new[name] = value
                else:
                    edits.append((found.value_start, found.value_end, _escaped(value)))
        if new:
            edits.append((self._end, self._end, self._description(new)))
        data = self.data
        for start, end, replacement in sorted(edits, reverse=True):
            data = data[:start] + replacement + data[end:]
        return data

    def _description(self, values: Mapping[Name, str]) -> bytes:
        """An `rdf:Description` with these properties: XMP joins all that are about the same picture."""
        spaces = sorted({namespace for namespace, _ in values})
        lines = [f"\n   {self._rdf}about={quoteattr(self._about)}"]
        lines += [f'\n   xmlns:{PREFIXES[namespace]}="{namespace}"' for namespace in spaces]
        tag = f" <{self._rdf}Description".encode() + "".join(lines).encode()
        children = b""
        for (namespace, name), value in values.items():
            prefixed = f"{PREFIXES[namespace]}:{name}".encode()
            if (namespace, name) == DESCRIPTION:
                item = f'<{self._rdf}li xml:lang="x-default">'.encode() + _escaped(value) + f"</{self._rdf}li>".encode()
                alternatives = f"<{self._rdf}Alt>".encode() + item + f"</{self._rdf}Alt>".encode()
                children += b"\n   <" + prefixed + b">" + alternatives + b"</" + prefixed + b">"
            else:
                tag += b"\n   " + prefixed + b'="' + _escaped(value) + b'"'
        if not children:
            return tag + b"/>\n "
        return tag + b">" + children + f"\n  </{self._rdf}Description>\n ".encode()


class _Reader:
    """The places of the properties in the bytes of a packet.

    Attributes:
        found: property → where it stands.
        end: where further descriptions can be put in.
        about: what the descriptions are about, as they say it.
        prefix: that of RDF here, with its colon.
    """

    def __init__(self, data: bytes) -> None:
        self.found: dict[Name, _Found] = {}
        self.end, self.about, self.prefix = -1, "", ""
        self._data = data
        self._path: list[str] = []
        self._rdf_depth = 0
        self._property: _Found | None = None
        self._item = False  # within the text that counts, of several
        self._text: list[str] = []
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.namespace_prefixes = True
        self._parser.ordered_attributes = True
        self._parser.StartElementHandler = self._started
        self._parser.EndElementHandler = self._ended
        self._parser.CharacterDataHandler = self._text.append
        self._parser.StartDoctypeDeclHandler = self._refuse
        try:
            data.decode()
            self._parser.Parse(data, True)
        except (expat.ExpatError, UnicodeDecodeError) as error:
            raise NotXmpError(f"it is no XML in UTF-8 ({error})") from error
        if self.end < 0:
            raise NotXmpError("it has no rdf:RDF")

    def _refuse(self, *_: object) -> None:
        raise NotXmpError("it has a DOCTYPE")

    def _started(self, name: str, attributes: list[str]) -> None:
        self._path.append(name)
        space, local, prefix = [*name.split(" "), "", ""][:3]
        start = self._parser.CurrentByteIndex
        if not self._rdf_depth:
            if (space, local) == (RDF, "RDF"):
                self._rdf_depth, self.prefix = len(self._path), f"{prefix}:" if prefix else ""
            return
        depth = len(self._path) - self._rdf_depth
        if depth == 1:
            self._attributes(start, attributes)
        elif depth == 2:
            tag_end, is_empty = self._tag(start)
            before = len(self._data[:start].rstrip())
            self._property = _Found(before, tag_end if is_empty else 0, None if is_empty else tag_end)
            self.found.setdefault((space, local), self._property)
            self._text.clear()
        elif depth == 4 and (space, local) == (RDF, "li") and self._property is not None:
            is_default = f"{_LANGUAGE} x-default" in map(" ".join, zip(attributes[::2], attributes[1::2], strict=True))
            if is_default or self._property.value_start is None:
                tag_end, is_empty = self._tag(start)
                self._property.value_start, self._item = (None, False) if is_empty else (tag_end, True)
                self._text.clear()
        elif depth == 3 and self._property is not None:
            self._property.value_start = None

    def _attributes(self, start: int, attributes: list[str]) -> None:
        """The properties that are attributes of a description."""
        tag_end, _ = self._tag(start)
        raw = [found for found in _ATTRIBUTE.finditer(self._data, start, tag_end) if not found[1].startswith(b"xmlns")]
        for found, name, value in zip(raw, attributes[::2], attributes[1::2], strict=True):
            space, local = [*name.split(" "), ""][:2]
            if (space, local) == (RDF, "about"):
                self.about = self.about or value
            elif local:
                place = _Found(found.start(), found.end(), found.start(2) + 1, found.end(2) - 1, value)
                self.found.setdefault((space, local), place)

    def _ended(self, _: str) -> None:
        depth = len(self._path) - self._rdf_depth if self._rdf_depth else -1
        self._path.pop()
        here, found = self._parser.CurrentByteIndex, self._property
        if depth == 0:
            if self._data[here : here + 2] != b"</":
                raise NotXmpError("its rdf:RDF is empty")
            self.end, self._rdf_depth = here, 0
        elif found is None:
            return
        elif depth == 4 and self._item:
            found.value_end, found.value, self._item = here, "".join(self._text), False
        elif depth == 2:
            if not found.end:
                found.end = self._data.index(b">", here) + 1
            if found.value_start is not None and not found.value_end:
                found.value_end, found.value = here, "".join(self._text)
            self._property = None

    def _tag(self, start: int) -> tuple[int, bool]:
        """Where the tag ends that starts here, and whether it is its element's end too."""
        found = _TAG.match(self._data, start)
        if found is None:
            raise NotXmpError("one of its tags is not understood")
        return found.end(), found[0].endswith(b"/>")


def legal(text: str) -> str:
    """A text without the characters that XML cannot have."""
    return _ILLEGAL.sub(" ", text)


def _escaped(value: str) -> bytes:
    """A value for an attribute or an element."""
    breaks = {'"': "&quot;", "'": "&#39;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
    return escape(value, breaks).encode()
