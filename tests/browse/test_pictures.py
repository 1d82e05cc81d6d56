"""Pictures of a store for a page: in their shape, within limits, and stars written beside them."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.browse_client import Client, browsing
from support.golden import golden_images
from support.report_stores import write_store
from support.score_job import ARTIMUSE, run_artimuse

from artimuse_actor.errors import ImageError
from artimuse_actor.fetch.options import FetchOptions
from artimuse_actor.images.child_decoder import ChildDecoder
from artimuse_actor.images.decode import decode_image
from artimuse_actor.images.options import DecodeOptions
from jobs.browse.pictures import SIZES, Pictures
from jobs.demo.run import CHECKPOINT

pytestmark = [pytest.mark.server, pytest.mark.process]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with a wide picture, a small one and one that is no picture, and a store of them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (3000, 1000), "teal").save(folder / "wide.jpg")
    Image.new("RGB", (30, 40), "red").save(folder / "small.png")
    (folder / "text.jpg").write_text("Dear diary")
    (tmp_path / "secret.jpg").write_bytes((folder / "wide.jpg").read_bytes())
    names = ("wide.jpg", "small.png", "text.jpg", "gone.jpg")
    rows: list[dict[str, Any]] = [{"image_id": name, "uri": str(folder / name), "score": 70.0} for name in names]
    rows += [
        {"image_id": "secret.jpg", "uri": str(tmp_path / "secret.jpg"), "score": 70.0},
        {"image_id": "table", "uri": None},
    ]
    write_store(tmp_path / "out", rows)
    return folder


@pytest.fixture
def client(photos: Path) -> Iterator[Client]:
    with browsing(photos.parent / "out", root=photos) as found:
        yield found


def test_pictures_come_small_and_large_in_their_shape(client: Client) -> None:
    for name, size, shape in (
        ("wide.jpg", "small", (384, 128)),
        ("wide.jpg", "large", (1920, 640)),
        ("small.png", "large", (30, 40)),
    ):
        status, data = client.fetch("picture", number=client.number(name), size=size)
        assert status == 200
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == ("JPEG", shape)


def test_what_cannot_be_shown_says_why(client: Client) -> None:
    for name, reason in (
        ("text.jpg", "not_an_image"),
        ("gone.jpg", "missing"),
        ("secret.jpg", "outside_root"),
        ("table", "missing: The image was embedded"),
    ):
        status, body = client.fetch("picture", number=client.number(name), size="small")
        assert status == 404
        assert json.loads(body)["error"].startswith(reason)
    assert client.fetch("picture", number=client.number("wide.jpg"), size="huge")[0] == 400
    assert client.fetch("picture", number=2**60, size="small")[0] == 400


def test_pictures_are_kept_within_a_bound(photos: Path) -> None:
    uri = str(photos / "wide.jpg")
    with Pictures(FetchOptions(), cache_bytes=10_000) as pictures:
        first = pictures.jpeg(uri, "1", "small")
        assert pictures.jpeg(uri, "1", "small") is first
        for version in range(2, 12):
            pictures.jpeg(uri, str(version), "small")
        assert sum(map(len, pictures._kept.values())) == pictures._kept_bytes <= 10_000
        assert pictures.jpeg(uri, "1", "small") is not first
        with pytest.raises(ImageError, match="embedded"):
            pictures.jpeg(None, None, "small")


def test_a_decoder_makes_the_same_picture_in_a_child_and_nothing_is_enlarged() -> None:
    options = DecodeOptions("fast", preprocess="photo", longest_side=SIZES["small"].longest_side)
    with ChildDecoder(options) as decoder:
        for path in golden_images():
            ours, childs = decode_image(path.read_bytes(), options), decoder.decode(path.read_bytes())
            assert (ours.pixels == childs.pixels).all()
            height, width = ours.pixels.shape[:2]
            assert max(width, height) == min(384, max(ours.width, ours.height))
            assert abs(width * ours.height - height * ours.width) <= max(ours.width, ours.height)


def _rating(photos: Path, name: str) -> str | None:
    pyexiv2 = pytest.importorskip("pyexiv2")
    path = photos / f"{name}.xmp"
    if not path.exists():
        return None
    with pyexiv2.ImageData(path.read_bytes()) as image:
        value: str | None = image.read_xmp().get("Xmp.xmp.Rating")
        return value


def test_stars_are_a_persons_stay_and_can_be_taken_back(photos: Path, client: Client) -> None:
    out = photos.parent / "out"
    run_artimuse("export", out, "--as", "xmp")
    assert _rating(photos, "wide.jpg") == "3"
    client.post("mark", search={}, marked=True)
    lines = client.post("stars", stars=5)["lines"]
    assert "3 sidecars written" in lines[0]
    assert "1 whose pictures are gone" in lines[1]
    assert "1 whose pictures are outside of --root" in lines[1]
    assert (_rating(photos, "wide.jpg"), _rating(photos, "small.png")) == ("5", "5")
    assert _rating(photos.parent, "secret.jpg") == "3"
    run_artimuse("export", out, "--as", "xmp", "--stars", "10,20,30,40,99")
    assert (_rating(photos, "wide.jpg"), _rating(photos.parent, "secret.jpg")) == ("5", "4")
    assert "3 have a person's rating" in client.post("stars", stars=2)["lines"][0]
    client.post("stars", stars=2, overwrite=True)
    assert _rating(photos, "wide.jpg") == "2"
    assert client.post("stars", stars=6, code=400)["error"] == "A picture has 1 to 5 stars, not 6."
    run_artimuse("export", out, "--as", "xmp", "--undo")
    assert list(photos.parent.rglob("*.xmp")) == []


def test_marks_are_scored_as_any_manifest(photos: Path, client: Client) -> None:
    client.mark("wide.jpg", "small.png")
    marks = photos.parent / "marks.parquet"
    marks.write_bytes(client.fetch("marks.parquet")[1])
    out = photos.parent / "again"
    done = run_artimuse("score", marks, "--checkpoint", CHECKPOINT, "--out", out, "--local")
    assert "2 rows = 2 ok + 0 failed" in done.stdout


@pytest.fixture
def _heeded_ctrl_c() -> Iterator[None]:
    """What a shell starts in the background ignores SIGINT, and so do its own processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeded_ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_with_code_0(photos: Path, number: signal.Signals) -> None:
    command = [*ARTIMUSE, "browse", str(photos.parent / "out"), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert "6 rows at http://127.0.0.1:" in first
        with urllib.request.urlopen(first.split()[-1], timeout=60) as page:
            assert "<title>out: browse</title>" in page.read().decode()
        process.send_signal(number)
        shown, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (0, "")
    assert shown.splitlines()[-1] == "Ended."


def test_a_store_that_is_none_ends_with_a_sentence(tmp_path: Path) -> None:
    assert "is no store of scores" in run_artimuse("browse", tmp_path, code=1).stderr
