from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.golden import golden_images

from artimuse_actor.errors import ImageError
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.decoder_limits import can_limit_this_process
from artimuse_actor.images.options import DecodeOptions

pytestmark = pytest.mark.timeout(120)

SIDE = 2000
MIB = 1024**2


def large_picture(file_format: str, mode: str = "RGB", **arguments: Any) -> bytes:
    """4 megapixels: 16 MB when they are decoded, and the decoder's own need."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE // 20, SIDE // 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(noise).convert(mode).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    picture.save(buffer, file_format, **arguments)
    return buffer.getvalue()


LARGE: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: large_picture("JPEG"),
    "progressive JPEG": lambda: large_picture("JPEG", progressive=True, subsampling=0),
    "PNG": lambda: large_picture("PNG", compress_level=1),
    "WebP": lambda: large_picture("WEBP", method=0),
    "lossless WebP": lambda: large_picture("WEBP", lossless=True, method=0, quality=0),
    "AVIF": lambda: large_picture("AVIF", speed=10),
    "JPEG 2000": lambda: large_picture("JPEG2000", quality_mode="rates", quality_layers=[50]),
    "LZW TIFF": lambda: large_picture("TIFF", compression="tiff_lzw"),
    "TIFF": lambda: large_picture("TIFF"),
    "GIF": lambda: large_picture("GIF", "L"),  # as it comes: to choose colours takes seconds
    "BMP": lambda: large_picture("BMP"),
    "PPM": lambda: large_picture("PPM"),
}


@pytest.mark.process
@pytest.mark.parametrize("name", LARGE)
def test_what_does_not_fit_into_the_memory_limit_is_called_so_whatever_the_library_says(name: str) -> None:
    # Libraries say "broken data stream", "could not create decoder object" and the like when an allocation fails.
    data = LARGE[name]()
    for allow_truncated in (False, True):  # with which Pillow passes over errors
        with ChildDecoder(DecodeOptions(allow_truncated=allow_truncated)) as child:
            for limit in (5 * MIB, 18 * MIB):
                child.options = replace(child.options, decoder_memory_bytes=limit)  # sent with each picture
                with pytest.raises(ImageError) as caught:
                    child.decode(data)
                assert caught.value.error_type == "decoder_memory", (limit, caught.value.message)
            if not allow_truncated:
                child.options = replace(child.options, decoder_memory_bytes=400 * MIB)
                np.testing.assert_array_equal(child.decode(data).pixels, decode_image(data).pixels)


def in_a_process_of_its_own(program: str, *arguments: Any) -> Any:
    """The output of a program, parsed from JSON; here the alarm is in use already, for the time limit of the test."""
    start = "import json, resource, signal, sys, threading\nfrom artimuse_actor.images.decoder_limits import *\n"
    command = [sys.executable, "-c", start + program, *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


@pytest.mark.process
def test_limits_are_gone_when_a_picture_is_decoded_or_refused() -> None:
    state = in_a_process_of_its_own(
        "def state(): return signal.getitimer(signal.ITIMER_REAL), resource.getrlimit(resource.RLIMIT_DATA)\n"
        "states = [state()]\n"
        "data = open(sys.argv[1], 'rb').read()\n"
        "for picture in (data, data[:900], b'', data):\n"
        "    try: decode_within_limits(picture, DecodeOptions())\n"
        "    except ImageError as error: pass\n"
        "    states.append(state())\n"
        "print(json.dumps(states))",
        golden_images()[0],
    )
    assert len(state) == 5
    assert all(later == state[0] for later in state)


@pytest.mark.process
def test_a_limit_of_the_process_itself_is_kept() -> None:
    error_type, limit = in_a_process_of_its_own(
        "from artimuse_actor.images.memory_limit import _private_bytes\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (_private_bytes() + (30 << 20), resource.RLIM_INFINITY))\n"
        "data = b'P6 5000 5000 255\\n' + bytes(10_000_000)\n"
        "try: decode_within_limits(data, DecodeOptions(allow_truncated=True))\n"
        "except ImageError as error: print(json.dumps([error.error_type, resource.getrlimit(resource.RLIMIT_DATA)[0]]))"
    )
    assert error_type == "decoder_memory"
    assert limit > 0


@pytest.mark.process
def test_the_alarm_is_taken_only_where_nobody_else_needs_it() -> None:
    assert in_a_process_of_its_own(
        "free = [can_limit_this_process()]\n"
        "signal.setitimer(signal.ITIMER_REAL, 100); free.append(can_limit_this_process())\n"
        "signal.setitimer(signal.ITIMER_REAL, 0); free.append(can_limit_this_process())\n"
        "signal.signal(signal.SIGALRM, lambda *_: None); free.append(can_limit_this_process())\n"
        "print(json.dumps(free))"
    ) == [True, False, True, False]
    elsewhere: list[bool] = []
    thread = threading.Thread(target=lambda: elsewhere.append(can_limit_this_process()))
    thread.start()
    thread.join()
    assert elsewhere == [False]
