"""The memory of a node, shared by its decoders."""

from __future__ import annotations

import io
import threading
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
from PIL import Image

from artimuse_actor.errors import ImageError
from artimuse_actor.images import child_decoder, node_memory
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.node_memory import one_large_decode, share_bytes
from artimuse_actor.images.options import DecodeOptions

MIB = 1024**2


def _picture(side: int) -> bytes:
    """A picture of so many pixels squared, which takes three bytes for each when it is decoded."""
    sink = io.BytesIO()
    Image.new("RGB", (side, side), (200, 100, 50)).save(sink, "PPM")
    return sink.getvalue()


def test_decoders_of_all_cores_share_half_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for gib, cores, share in ((128, 16, 4096), (8, 4, 1024), (2, 64, 256)):
        monkeypatch.setattr(node_memory, "node_bytes", lambda gib=gib: gib * 1024 * MIB)
        monkeypatch.setattr(node_memory, "usable_cores", lambda cores=cores: cores)
        share_bytes.cache_clear()
        assert share_bytes() == share * MIB
    monkeypatch.undo()
    share_bytes.cache_clear()


@pytest.mark.process
def test_only_a_picture_that_needs_more_than_its_share_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    large: list[str] = []

    def noted() -> AbstractContextManager[None]:
        large.append("large")
        return nullcontext()

    monkeypatch.setattr(child_decoder, "share_bytes", lambda: 60 * MIB)
    monkeypatch.setattr(child_decoder, "one_large_decode", noted)
    with ChildDecoder(DecodeOptions(decoder_memory_bytes=500 * MIB)) as child:
        assert child.decode(_picture(500)).width == 500
        assert not large
        data = _picture(6000)
        np.testing.assert_array_equal(child.decode(data).pixels, decode_image(data).pixels)
        assert large == ["large"]
        with pytest.raises(ImageError) as caught:
            child.decode(b"no picture")
        assert (caught.value.error_type, large) == ("not_an_image", ["large"])
    with ChildDecoder(DecodeOptions(decoder_memory_bytes=100 * MIB)) as child, pytest.raises(ImageError) as caught:
        child.decode(data)
    assert caught.value.error_type == "decoder_memory"
    assert f"limit of {100 * MIB:,} bytes" in caught.value.message


@pytest.mark.process
def test_a_large_picture_waits_until_the_one_before_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_decoder, "share_bytes", lambda: 60 * MIB)
    order: list[str] = []

    def decode() -> None:
        with ChildDecoder(DecodeOptions(decoder_memory_bytes=500 * MIB)) as child:
            child.decode(_picture(6000))
        order.append("second")

    second = threading.Thread(target=decode)
    with one_large_decode():
        second.start()
        second.join(2)
        order.append("first")
    second.join()
    assert order == ["first", "second"]
