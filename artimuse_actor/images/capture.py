"""When and with what a picture was taken, as its EXIF says.

A picture is scored whatever its metadata hold, so what cannot be read there is null and no error.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from PIL import ExifTags, Image

_MOST_CHARACTERS: Final = 100


@dataclass(frozen=True)
class Capture:
    """The circumstances of a picture.

    Attributes:
        taken_at: the time on the camera's clock, which has no zone, in ISO 8601; None if it is not known.
        camera: its make and model.
        orientation: EXIF's, 1 to 8.
    """

    taken_at: str | None = None
    camera: str | None = None
    orientation: int | None = None


def capture_of(image: Image.Image) -> Capture:
    """What the EXIF of a picture says; of a TIFF before it is decoded, since Pillow turns it then."""
    try:
        exif = image.getexif()
        orientation: Any = exif.get(ExifTags.Base.Orientation)
        return Capture(
            _taken_at(exif.get_ifd(ExifTags.IFD.Exif)),
            _camera(exif.get(ExifTags.Base.Make), exif.get(ExifTags.Base.Model)),
            orientation if orientation in range(1, 9) else None,
        )
    except MemoryError:
        raise
    except Exception:  # odd metadata raise any type
        return Capture()


def _taken_at(exif: dict[int, Any]) -> str | None:
    """When it was exposed, or else when it was digitised; not when its file was last changed."""
    for time, fraction in (
        (ExifTags.Base.DateTimeOriginal, ExifTags.Base.SubsecTimeOriginal),
        (ExifTags.Base.DateTimeDigitized, ExifTags.Base.SubsecTimeDigitized),
    ):
        try:
            taken_at = datetime.strptime(_text(exif.get(time))[:19], "%Y:%m:%d %H:%M:%S")
        except ValueError:  # cameras without a clock write zeros or blanks
            continue
        digits = re.match("[0-9]*", _text(exif.get(fraction)))
        assert digits is not None
        return (taken_at + timedelta(seconds=float(f"0.{digits[0][:6] or 0}"))).isoformat()
    return None


def _camera(make: Any, model: Any) -> str | None:
    """Make and model, the make once: models of many makers begin with it."""
    maker, name = _text(make), _text(model)
    if maker and not name.lower().startswith(maker.split()[0].lower()):
        name = f"{maker} {name}".strip()
    return name[:_MOST_CHARACTERS] or None


def _text(value: Any) -> str:
    """A text of EXIF without what cannot be printed, and without the blanks that fill its field."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(mark if mark.isprintable() else " " for mark in value.partition("\0")[0]).split())
