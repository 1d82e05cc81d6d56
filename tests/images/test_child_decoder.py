from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.decoder_faults import faulty, make_fault_folder
from support.golden import golden_images

from artimuse_actor.errors import ImageError, RunError
from artimuse_actor.images import child_decoder
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import DecodedImage, decode_image
from artimuse_actor.images.options import DecodeOptions

pytestmark = pytest.mark.timeout(60)

HASTY = DecodeOptions(decoder_timeout_s=2.0, decoder_memory_bytes=256 * 1024**2)
PATIENT = DecodeOptions(decoder_memory_bytes=256 * 1024**2)


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In processes started from now on, pictures of `faulty` do what they say."""
    for name, value in make_fault_folder(tmp_path / "faults").items():
        monkeypatch.setenv(name, value)
    return tmp_path / "faults"


@pytest.fixture(scope="module")
def child() -> Iterator[ChildDecoder]:
    with ChildDecoder(DecodeOptions()) as child:
        yield child


def assert_same(one: DecodedImage, other: DecodedImage) -> None:
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert one.pixels.dtype == other.pixels.dtype
    assert replace(one, pixels=other.pixels) == other


@pytest.mark.process
@pytest.mark.parametrize("path", golden_images(), ids=lambda path: path.name)
def test_a_child_decodes_to_the_byte_as_this_process_does(path: Path, child: ChildDecoder) -> None:
    assert_same(child.decode(path.read_bytes()), decode_image(path.read_bytes()))


@pytest.mark.process
@pytest.mark.parametrize("data", [b"", b"Dear diary,\n", golden_images()[0].read_bytes()[:5000], b"%PDF-1.7"])
def test_a_child_refuses_what_this_process_refuses_in_the_same_words(data: bytes, child: ChildDecoder) -> None:
    with pytest.raises(ImageError) as here:
        decode_image(data)
    with pytest.raises(ImageError) as there:
        child.decode(data)
    assert (there.value.error_type, there.value.message, there.value.retryable) == (
        here.value.error_type,
        here.value.message,
        here.value.retryable,
    )


@pytest.mark.process
def test_a_child_decodes_with_all_options() -> None:
    options = DecodeOptions(decode="fast", allow_truncated=True, exif_rotate=True)
    pictures = {path.name: path.read_bytes() for path in golden_images()}
    cut = pictures["01_rgb_640x480.jpg"][:9000]
    with ChildDecoder(options) as child:
        for data in (pictures["10_exif6.jpg"], cut, pictures["00_rgb_448x448.jpg"]):
            assert_same(child.decode(data), decode_image(data, options))
    with ChildDecoder(DecodeOptions(max_pixels=10)) as child, pytest.raises(ImageError, match="--max-pixels"):
        child.decode(cut)


@pytest.mark.process
@pytest.mark.parametrize(
    ("fault", "error_type", "says"),
    [
        ("SEGFAULT", "decoder_crashed", "crashed with signal SIGSEGV"),
        ("ABORT", "decoder_crashed", "crashed with signal SIGABRT"),
        ("EXIT", "decoder_crashed", "crashed with exit code 3"),
        ("HOLD", "decoder_timeout", "longer than the limit of 2 seconds. Raise it with --decoder-timeout"),
        ("SLEEP", "decoder_timeout", "longer than the limit of 2 seconds"),
        ("HOARD", "decoder_memory", "more than the limit of 268,435,456 bytes of memory. Raise it with --decoder-mem"),
        ("KILLED", "decoder_memory", "Its decoder was killed, as it happens when the machine has no memory left"),
    ],
)
def test_a_picture_that_kills_its_decoder_is_an_error_and_the_next_one_is_decoded(
    fault: str, error_type: str, says: str, faults: Path
) -> None:
    with ChildDecoder(HASTY if error_type == "decoder_timeout" else PATIENT) as child:
        with pytest.raises(ImageError) as caught:
            child.decode(faulty(fault))
        assert caught.value.error_type == error_type
        assert says in caught.value.message
        # Only what a machine with more room may do differently is worth another run with the same limits.
        assert caught.value.retryable == (fault == "KILLED")
        assert_same(child.decode(faulty("PRINT")), decode_image(faulty("PRINT")))


@pytest.mark.process
@pytest.mark.parametrize("fault", ["SEGFAULT ONCE", "SLEEP ONCE"])
def test_a_picture_is_tried_again_in_a_new_child(fault: str, faults: Path) -> None:
    with ChildDecoder(HASTY) as child:
        assert_same(child.decode(faulty(fault)), decode_image(faulty(fault)))
    assert (faults / fault).exists()


@pytest.mark.process
def test_a_child_that_is_stopped_is_killed(faults: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_decoder, "_GRACE_S", 0.5)
    with ChildDecoder(HASTY) as child, pytest.raises(ImageError) as caught:
        child.decode(faulty("STOP"))
    assert caught.value.error_type == "decoder_timeout"


@pytest.mark.process
def test_a_child_whose_parent_was_killed_ends_by_itself(faults: Path) -> None:
    parent = (
        "import sys\n"
        "from artimuse_actor.images.child_decoder import ChildDecoder, DecodeOptions\n"
        "child = ChildDecoder(DecodeOptions(decoder_timeout_s=2))\n"
        "child.decode(open(sys.argv[1], 'rb').read())\n"
        "print(child._child.pid, flush=True)\n"
        "child.decode(open(sys.argv[2], 'rb').read())\n"
    )
    (faults / "sleep.jpg").write_bytes(faulty("SLEEP"))
    command = [sys.executable, "-c", parent, str(golden_images()[0]), str(faults / "sleep.jpg")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 20
    while _is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.process
def test_leaving_a_child_that_is_busy_does_not_wait_for_it(faults: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(child: subprocess.Popen[bytes], data: bytes, memory_bytes: int) -> DecodedImage:
        assert child.stdin is not None
        child.stdin.write(memory_bytes.to_bytes(8, "little") + len(data).to_bytes(8, "little") + data)
        child.stdin.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(child_decoder, "_ask", interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ChildDecoder(DecodeOptions(decoder_timeout_s=1000)) as child:
        child.decode(faulty("SLEEP"))
    assert time.monotonic() - began < 30


@pytest.mark.process
def test_a_child_that_cannot_start_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with ChildDecoder(DecodeOptions()) as child, pytest.raises(RunError, match="when it was started, with code 1"):
        child.decode(golden_images()[0].read_bytes())


@pytest.mark.process
def test_a_child_imports_nothing_from_the_folder_it_works_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The user may well stand in a folder of somebody else's files.
    for name in ("numpy.py", "json.py", "artimuse_actor.py"):
        (tmp_path / name).write_text("raise SystemExit('imported from the working folder')\n")
    monkeypatch.chdir(tmp_path)
    with ChildDecoder(DecodeOptions()) as child:
        child.decode(golden_images()[0].read_bytes())


@pytest.mark.process
def test_a_child_notices_an_alarm_that_its_parent_ignores(faults: Path) -> None:
    before = signal.getsignal(signal.SIGALRM)
    with ChildDecoder(HASTY) as child:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        try:
            with pytest.raises(ImageError, match="limit of 2 seconds"):
                child.decode(faulty("SLEEP"))
        finally:
            signal.signal(signal.SIGALRM, before)
