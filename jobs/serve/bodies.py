"""Bodies of requests → files of pictures.

    image/*, application/octet-stream   one picture, as it is
    multipart/form-data                 a picture a part
    application/json                    {"images": ["base64", …]}, or the list alone; a data: url is base64 with a head

Nothing else is read: a body that names an url or a path gets an error for it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any, Final, TypeAlias

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from artimuse_actor.errors import ImageError, RequestRefused, message_of
from jobs.serve.admission import body_too_large
from jobs.serve.settings import Limits

File: TypeAlias = bytes | ImageError

_JSON, _MULTIPART, _BYTES = "application/json", "multipart/form-data", "application/octet-stream"
_MARKS: Final = (b"[", b"{", b",", b":")
_FEW_MARKS: Final = 1_000
_CHUNK_BYTES: Final = 256 * 1024
_FORMS: Final = (
    f'Send one picture as image/* or {_BYTES}, or several as {_MULTIPART} or as {_JSON}: {{"images": ["base64", …]}}.'
)


class BodyReader:
    """Reads the bodies of requests, within the limits."""

    def __init__(self, limits: Limits) -> None:
        """Read nothing yet."""
        self._limits = limits

    async def read(self, request: web.Request) -> list[File]:
        """The files of a request's pictures, at least one.

        Raises:
            RequestRefused: the body has another form, is too large, or has too many pictures.
        """
        if request.headers.get("Content-Encoding", "identity") != "identity":
            raise RequestRefused(415, "unsupported_body", "Pictures are compressed already: send them as they are.")
        try:
            if request.content_type == _JSON:
                return await asyncio.to_thread(self._parse, await request.read())
            if request.content_type == _MULTIPART:
                return self._counted(await self._parts(request))
            if request.content_type == _BYTES or request.content_type.startswith("image/"):
                return [await request.read()]
        except web.HTTPRequestEntityTooLarge:
            raise body_too_large(self._limits.body_bytes) from None
        raise RequestRefused(415, "unsupported_body", f"{request.content_type} holds no pictures. {_FORMS}")

    async def _parts(self, request: web.Request) -> list[File]:
        files: list[File] = []
        left = self._limits.body_bytes
        try:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader):
                    raise ValueError("a part has parts")
                data = bytearray()
                while chunk := await part.read_chunk(_CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        raise body_too_large(self._limits.body_bytes)
                    data += chunk
                files.append(bytes(data))
                if len(files) > self._limits.queue:
                    break
        # The parser asserts what a body may lack.
        except (ValueError, AssertionError, HttpProcessingError, web.RequestPayloadError) as error:
            raise RequestRefused(400, "bad_body", f"The parts cannot be read: {message_of(error)}. {_FORMS}") from error
        return files

    def _parse(self, body: bytes) -> list[File]:
        # Empty lists take twenty times the memory of their JSON. Base64 has none of these marks, a data: url two.
        if sum(map(body.count, _MARKS)) > _FEW_MARKS + 4 * self._limits.queue:
            raise self._too_many()
        try:
            found: Any = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestRefused(400, "bad_body", f"The body is no JSON: {message_of(error)}. {_FORMS}") from error
        images = found.get("images") if isinstance(found, dict) else found
        if not isinstance(images, list):
            raise RequestRefused(400, "bad_body", f"The body has no list of pictures. {_FORMS}")
        return [_decoded(image) for image in self._counted(images)]

    def _counted(self, images: list[Any]) -> list[Any]:
        if not images:
            raise RequestRefused(400, "bad_body", f"The body has no pictures. {_FORMS}")
        if len(images) > self._limits.queue:
            raise self._too_many()
        return images

    def _too_many(self) -> RequestRefused:
        most = f"A request has at most {self._limits.queue:,} pictures here (--queue), and little beside them."
        return RequestRefused(413, "too_many_images", most)


def _decoded(image: Any) -> File:
    try:
        if not isinstance(image, str):
            raise TypeError("it is no string")
        head, comma, data = image.partition(",")
        return base64.b64decode(data if comma and head.startswith("data:") else image, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        return ImageError(
            "bad_row",
            f"A picture in JSON is the base64 of its file: {message_of(error)}. No url and no path is read here; send "
            "the file itself.",
        )
