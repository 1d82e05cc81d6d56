"""Scores as XMP sidecars, read back and edited by Exiv2, which digiKam and darktable read and write them with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes
from xml.etree import ElementTree

import pyexiv2
import pytest
from support.score_job import run_artimuse
from support.scored_stores import unipercept_store, write_store

from jobs.export.xmp.rating import rate
from jobs.storage.local_place import LocalPlace

DARKTABLE = """<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <!-- kept -->
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:darktable="http://darktable.sf.net/"
    xmlns:odd="http://example.com/odd/"
   xmp:Rating="2"
   odd:note="a&#10;b &lt;c&gt;"
   darktable:xmp_version="5"
   darktable:history_end="1">
   <darktable:history>
    <rdf:Seq>
     <rdf:li darktable:num="0" darktable:operation="exposure" darktable:params="00=="/>
    </rdf:Seq>
   </darktable:history>
   <odd:empty/></rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""


def _store(folder: Path, scores: dict[str, float], **options: Any) -> Path:
    """A library of these pictures, and its store."""
    (folder / "photos").mkdir(exist_ok=True)
    shutil.rmtree(folder / "out" / "scores", ignore_errors=True)
    rows: list[dict[str, Any]] = []
    for name, score in scores.items():
        (folder / "photos" / name).touch()
        rows.append({"image_id": name, "uri": str(folder / "photos" / name), "score": score})
    write_store(folder / "out", rows, **options)
    return folder / "out"


def _export(out: Path, *options: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run_artimuse("export", out, "--as", "xmp", *options, "--json").stdout)
    return found


def _read(path: Path) -> dict[str, Any]:
    with pyexiv2.Image(str(path)) as sidecar:
        found: dict[str, Any] = sidecar.read_xmp()
        return found


def _rate(path: Path, rating: str | None) -> None:
    """What a person does in a photo program: Exiv2 writes the whole sidecar again."""
    with pyexiv2.Image(str(path)) as sidecar:
        sidecar.modify_xmp({"Xmp.xmp.Rating": rating, "Xmp.dc.subject": ["sea"]})


def _sidecars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "photos").glob("*.xmp"))}


@pytest.mark.slow
def test_stars_scores_and_texts_are_where_photo_programs_look(tmp_path: Path) -> None:
    scores = {"a.jpg": 20.0, "b.jpg": 30.0, "c.jpg": 74.99, "d.jpg": 91.5}
    out = _store(tmp_path, scores, texts={"b.jpg": 'A \x1b "golden" <hour> & 夕焼け\nof two lines'})
    done = _export(out, "--reject-below", "25", "--texts-as", "description")
    assert (done["rows"], done["files"], done["unchanged"], done["skipped"]) == (4, 4, 0, {})
    read = {name: _read(tmp_path / "photos" / f"{name}.xmp") for name in scores}
    assert [about["Xmp.xmp.Rating"] for about in read.values()] == ["-1", "1", "3", "5"]
    assert [about["Xmp.artimuse.score"] for about in read.values()] == ["20.0000", "30.0000", "74.9900", "91.5000"]
    assert read["a.jpg"]["Xmp.artimuse.scoreStd"] == "10.0000"
    assert read["a.jpg"]["Xmp.artimuse.checkpoint"].startswith("ArtiMuse@")
    text = 'Overall Gestalt: A   "golden" <hour> & 夕焼け\nof two lines'
    assert read["b.jpg"]["Xmp.dc.description"] == {'lang="x-default"': text}
    assert not _export(out, "--reject-below", "25", "--texts-as", "description")["files"]
    _export(out, "--texts-as", "own")
    again = _read(tmp_path / "photos" / "b.jpg.xmp")
    assert again["Xmp.artimuse.overall_gestalt"] == text.removeprefix("Overall Gestalt: ")
    _export(out)
    assert "Xmp.artimuse.overall_gestalt" not in _read(tmp_path / "photos" / "b.jpg.xmp")
    assert all((tmp_path / "photos" / name).stat().st_size == 0 for name in scores)  # the originals


def test_either_quote_around_a_value_or_in_it_leaves_a_sidecar_that_can_be_read(tmp_path: Path) -> None:
    out = _store(tmp_path, {"a.jpg": 20.0}, texts={"a.jpg": "Old."})
    sidecar = tmp_path / "photos" / "a.jpg.xmp"
    sidecar.write_text(DARKTABLE.replace('rdf:about=""', "rdf:about='a\"b'"))
    _export(out, "--texts-as", "own")
    assert ElementTree.parse(sidecar)
    sidecar.write_text(sidecar.read_text().replace('"Old."', "'Old.'"))  # as other programs write it
    out = _store(tmp_path, {"a.jpg": 20.0}, texts={"a.jpg": 'The image\'s "light".'})
    _export(out, "--texts-as", "own")
    assert "'The image&#39;s &quot;light&quot;.'" in sidecar.read_text()
    assert ElementTree.parse(sidecar)


def test_a_night_writes_only_the_sidecars_that_change(tmp_path: Path) -> None:
    out = _store(tmp_path, {"a.jpg": 20.0, "b.jpg": 40.0})
    assert _export(out)["files"] == 2
    before = _sidecars(tmp_path)
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "photos").glob("*.xmp"))]
    out = _store(tmp_path, {"a.jpg": 20.0, "b.jpg": 80.0, "c.jpg": 60.0})
    shown = run_artimuse("export", out, "--as", "xmp", "--dry-run").stdout
    assert f"{tmp_path}/photos/b.jpg.xmp (changed)\n  - xmp:Rating 1\n  + xmp:Rating 4\n" in shown
    assert f"{tmp_path}/photos/c.jpg.xmp (new)\n  + xmp:Rating 3\n" in shown
    assert f"{out}: 2 sidecars would be written, 1 are as they should be." in shown
    assert _sidecars(tmp_path) == before
    done = _export(out)
    assert (done["files"], done["unchanged"]) == (2, 1)
    assert (tmp_path / "photos" / "a.jpg.xmp").stat().st_mtime_ns == times[0]
    assert _read(tmp_path / "photos" / "b.jpg.xmp")["Xmp.xmp.Rating"] == "4"


def test_what_other_programs_and_people_wrote_stays(tmp_path: Path) -> None:
    out = _store(tmp_path, {"dark.jpg": 95.0, "person.jpg": 95.0, "unrated.jpg": 95.0})
    dark, person, unrated = (tmp_path / "photos" / f"{name}.jpg.xmp" for name in ("dark", "person", "unrated"))
    dark.write_text(DARKTABLE)
    dark.chmod(0o640)
    unrated.write_text(DARKTABLE.replace('Rating="2"', 'Rating="0"'))
    done = _export(out)
    assert (done["files"], done["kept"]) == (3, 1)
    head, ours, tail = dark.read_text().partition(' <rdf:Description\n   rdf:about=""\n   xmlns:artimuse=')
    assert head + "</rdf:RDF>" + tail.partition("</rdf:RDF>")[2] == DARKTABLE  # to the byte, but for what is ours
    assert ours
    assert dark.stat().st_mode & 0o777 == 0o640
    read = _read(dark)
    assert (read["Xmp.xmp.Rating"], read["Xmp.artimuse.score"]) == ("2", "95.0000")
    assert read["Xmp.darktable.history[1]/darktable:operation"] == "exposure"
    assert _read(unrated)["Xmp.xmp.Rating"] == "5"  # 0 is unrated

    _rate(person, "3")
    _rate(unrated, "0")  # who takes the stars away means it
    out = _store(tmp_path, {"dark.jpg": 35.0, "person.jpg": 35.0, "unrated.jpg": 35.0})
    assert _export(out)["kept"] == 3
    assert _read(person)["Xmp.xmp.Rating"] == "3"
    assert _read(person)["Xmp.dc.subject"] == ["sea"]
    assert _read(person)["Xmp.artimuse.score"] == "35.0000"
    assert _read(unrated)["Xmp.xmp.Rating"] == "0"
    assert _export(out, "--overwrite")["kept"] == 0
    assert [_read(path)["Xmp.xmp.Rating"] for path in (dark, person, unrated)] == ["1", "1", "1"]
    assert dark.read_text().startswith(DARKTABLE.partition("2")[0])
    assert _read(dark)["Xmp.odd.note"] == "a\nb <c>"


def test_undo_takes_back_all_exports_and_leaves_what_came_since(tmp_path: Path) -> None:
    out = _store(tmp_path, {"new.jpg": 50.0, "dark.jpg": 50.0, "edited.jpg": 50.0})
    photos = tmp_path / "photos"
    (photos / "dark.jpg.xmp").write_text(DARKTABLE)
    _export(out, "--overwrite")
    _rate(photos / "edited.jpg.xmp", "5")
    out = _store(tmp_path, {"new.jpg": 80.0, "dark.jpg": 80.0, "edited.jpg": 80.0})
    _export(out, "--overwrite")
    _rate(photos / "edited.jpg.xmp", "2")
    assert "3 sidecars would be taken back" in run_artimuse("export", out, "--as", "xmp", "--undo", "--dry-run").stdout
    assert _export(out, "--undo")["files"] == 3
    assert set(_sidecars(tmp_path)) == {"dark.jpg.xmp", "edited.jpg.xmp"}
    assert (photos / "dark.jpg.xmp").read_text() == DARKTABLE
    read = _read(photos / "edited.jpg.xmp")
    assert (read["Xmp.xmp.Rating"], read["Xmp.dc.subject"]) == ("2", ["sea"])
    assert not [name for name in read if "artimuse" in name]
    assert _export(out, "--undo")["files"] == 0


def test_undo_waits_for_pictures_that_are_away(tmp_path: Path) -> None:
    out = _store(tmp_path, {"a.jpg": 50.0, "b.jpg": 50.0})
    photos, away = tmp_path / "photos", tmp_path / "not mounted"
    (photos / "a.jpg.xmp").write_text(DARKTABLE)
    _export(out, "--overwrite")
    (photos / "a.jpg.xmp").rename(tmp_path / "a.jpg.xmp")
    assert _export(out, "--undo")["skipped"] == {"that are not there": 1}
    assert not _sidecars(tmp_path)
    _export(out)
    photos.rename(away)
    done = _export(out, "--undo")
    assert (done["files"], done["skipped"]) == (0, {"that are not there": 2})
    away.rename(photos)
    (tmp_path / "a.jpg.xmp").rename(photos / "a.jpg.xmp")
    (photos / "b.jpg.xmp").unlink()  # as an undo does that is killed before it has noted it
    done = _export(out, "--undo")
    assert (done["files"], done["unchanged"], done["skipped"]) == (1, 1, {})
    assert _sidecars(tmp_path) == {"a.jpg.xmp": DARKTABLE.encode()}
    assert not list((out / "_sidecars").glob("*"))


def test_undo_leaves_a_rating_that_a_person_gave_to_two_pictures(tmp_path: Path) -> None:
    out = _store(tmp_path, {"c.jpg": 50.0, "d.jpg": 50.0})
    store, photos = LocalPlace(str(out)), tmp_path / "photos"
    rate(store, [(str(photos / "d.jpg"), False)], 5, overwrite=False)
    (before,) = _sidecars(tmp_path).values()
    shutil.rmtree(out / "_sidecars")  # as in a store that was compacted
    rate(store, [(str(photos / "c.jpg"), False)], 5, overwrite=False)
    _export(out)
    _export(out, "--undo")
    assert _sidecars(tmp_path) == {"d.jpg.xmp": before}


def test_undo_finds_what_a_sidecar_was_before_its_folder_was_renamed(tmp_path: Path) -> None:
    out, rows = tmp_path / "out", []
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir()
    (tmp_path / "old" / "a.jpg").touch()
    (tmp_path / "old" / "a.jpg.xmp").write_text(DARKTABLE)
    for folder, score in (("old", 50.0), ("old", 80.0), ("new", 20.0)):
        if folder == "new":
            for path in list((tmp_path / "old").iterdir()):
                path.rename(tmp_path / "new" / path.name)
        shutil.rmtree(out / "scores", ignore_errors=True)
        rows = [{"image_id": "a.jpg", "uri": str(tmp_path / folder / "a.jpg"), "score": score}]
        write_store(out, rows)
        _export(out, "--overwrite")
    done = _export(out, "--undo")
    assert done["files"] == 1
    assert (tmp_path / "new" / "a.jpg.xmp").read_text() == DARKTABLE
    assert not list((out / "_sidecars").glob("*"))


def test_a_picture_whose_name_is_not_utf_8_has_its_sidecar_too(tmp_path: Path) -> None:
    out = _store(tmp_path, {"a.jpg": 50.0})
    name = os.fsdecode(b"caf\xe9.jpg")
    uri = f"file://{quote_from_bytes(os.fsencode(tmp_path / 'photos' / name))}"
    (tmp_path / "photos" / name).touch()
    rows = [{"image_id": "a.jpg", "uri": str(tmp_path / "photos" / "a.jpg"), "score": 50.0}]
    shutil.rmtree(out / "scores")
    write_store(out, [*rows, {"image_id": "caf%E9.jpg", "uri": uri, "score": 90.0}])
    assert _export(out)["files"] == 2
    assert b'xmp:Rating="5"' in (tmp_path / "photos" / f"{name}.xmp").read_bytes()
    assert _export(out, "--undo")["files"] == 2
    assert not _sidecars(tmp_path)


@pytest.mark.slow
def test_both_namings_and_what_lies_there(tmp_path: Path) -> None:
    out = _store(tmp_path, {"raw.jpg": 50.0, "raw.cr2": 60.0, "plain.jpg": 70.0, "named.jpg": 80.0})
    (tmp_path / "photos" / "named.xmp").write_text(DARKTABLE)
    _export(out)  # where sidecars are called a.xmp, new ones are too, but for those of two pictures
    assert set(_sidecars(tmp_path)) == {"named.xmp", "plain.xmp", "raw.cr2.xmp", "raw.jpg.xmp"}
    _export(out, "--undo")
    _export(out, "--naming", "full")
    assert set(_sidecars(tmp_path)) == {
        "named.xmp",
        *(f"{name}.xmp" for name in ("named.jpg", "plain.jpg", "raw.cr2", "raw.jpg")),
    }
    _export(out, "--undo")
    assert _export(out, "--naming", "stem")["skipped"] == {"whose a.xmp may be another picture's": 2}
    assert set(_sidecars(tmp_path)) == {"named.xmp", "plain.xmp"}


def test_sidecars_that_cannot_be_written_are_counted_and_left_alone(tmp_path: Path) -> None:
    out = _store(tmp_path, dict.fromkeys(("torn.jpg", "bomb.jpg", "link.jpg", "utf16.jpg", "gone.jpg"), 50.0))
    photos = tmp_path / "photos"
    (photos / "gone.jpg").unlink()
    (photos / "torn.jpg.xmp").write_text(DARKTABLE[:400])
    (photos / "bomb.jpg.xmp").write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]>' + DARKTABLE.partition("\n")[2])
    (photos / "utf16.jpg.xmp").write_bytes(DARKTABLE.encode("utf-16"))
    (tmp_path / "elsewhere").write_text(DARKTABLE)
    (photos / "link.jpg.xmp").symlink_to(tmp_path / "elsewhere")
    before = _sidecars(tmp_path)
    done = _export(out)
    assert done["skipped"] == {"that are no XMP": 3, "that are links": 1, "whose pictures are gone": 1}
    assert (done["files"], _sidecars(tmp_path)) == (0, before)


@pytest.mark.slow
def test_pictures_elsewhere_have_their_sidecars_in_a_folder(tmp_path: Path) -> None:
    rows = [{"image_id": "2026/web.jpg", "uri": "https://example.com/web.jpg", "score": 50.0}]
    if Path("/proc/version").exists():  # a folder where nobody can write
        rows.append({"image_id": "proc.jpg", "uri": "/proc/version", "score": 80.0})
    write_store(tmp_path / "out", rows)
    skipped = _export(tmp_path / "out")["skipped"]
    assert skipped["whose pictures are not files on this machine"] == 1
    assert sum(skipped.values()) == len(rows)
    for written in (len(rows), 0):
        done = _export(tmp_path / "out", "--sidecar-dir", tmp_path / "side")
        assert (done["files"], done["skipped"]) == (written, {})
    assert _read(tmp_path / "side" / "2026" / "web.jpg.xmp")["Xmp.xmp.Rating"] == "2"
    ids = ["../odd.jpg", "s3://bucket/a.jpg", "table.parquet#0", "table.parquet#1"]  # of a table's images: no uri
    write_store(tmp_path / "odd", [{"image_id": name, "uri": None, "score": 50.0} for name in ids])
    done = _export(tmp_path / "odd", "--sidecar-dir", tmp_path / "odd side")
    assert (done["files"], done["skipped"]) == (2, {"whose ids are no paths within a folder": 2})


def test_a_raw_file_that_was_not_scored_keeps_its_sidecar(tmp_path: Path) -> None:
    out = _store(tmp_path, {"a.jpg": 80.0, "b.jpg": 80.0})
    for name in ("a.xmp", "b.xmp"):
        (tmp_path / "photos" / name).write_text(DARKTABLE)
    (tmp_path / "photos" / "a.cr3").touch()
    (tmp_path / "photos" / "b.txt").touch()
    _export(out)
    assert sorted(_sidecars(tmp_path)) == ["a.jpg.xmp", "a.xmp", "b.xmp"]
    assert (tmp_path / "photos" / "a.xmp").read_text() == DARKTABLE
    rate(LocalPlace(str(out)), [(str(tmp_path / "photos" / "a.jpg"), False)], 4, overwrite=True)
    assert (tmp_path / "photos" / "a.xmp").read_text() == DARKTABLE
    assert _read(tmp_path / "photos" / "a.jpg.xmp")["Xmp.xmp.Rating"] == "4"
    assert _export(out, "--naming", "stem")["skipped"] == {"whose a.xmp may be another picture's": 1}


def test_a_picture_with_a_long_name_has_its_sidecar(tmp_path: Path) -> None:
    name = f"{'写' * 70}.jpg"
    assert _export(_store(tmp_path, {name: 80.0}))["files"] == 1
    assert list(_sidecars(tmp_path)) == [f"{name}.xmp"]


@pytest.mark.slow
def test_stars_by_shares_of_the_pictures_and_by_another_score(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(10)]
    out = _store(tmp_path, {name: 50 + number / 10 for number, name in enumerate(names)})
    _export(out, "--stars", "quantiles")
    assert _stars(tmp_path, names) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    _export(out, "--stars", "0%,0%,50%,80%,99.5%")
    assert _stars(tmp_path, names) == [2, 2, 2, 2, 2, 3, 3, 3, 4, 5]
    rows = [{"image_id": name, "uri": str(tmp_path / "photos" / name), "iaa": 10.0, "iqa": 90.0} for name in names]
    unipercept_store(tmp_path / "three", rows)
    _export(tmp_path / "three", "--score-column", "iqa")
    assert _stars(tmp_path, names) == [5] * 10


def _stars(folder: Path, names: Sequence[str]) -> list[int]:
    return [int(_read(folder / "photos" / f"{name}.xmp")["Xmp.xmp.Rating"]) for name in names]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--stars", "1,2,3"], "--stars takes five rising thresholds"),
        (["--stars", "90,75,60,45,30"], "--stars takes five rising thresholds"),
        (["--stars", "nan,1,2,3,4"], "--stars takes five rising thresholds"),
        (["--stars", "10%,20,30,40,50"], "--stars takes five rising thresholds"),
        (["--stars", "10%,20%,30%,40%,500%"], "--stars takes five rising thresholds"),
        (["--naming", "short"], "--naming takes auto, full (a.jpg.xmp) or stem (a.xmp)"),
        (["--texts-as", "own"], "has no texts"),
        (["--texts-as", "title"], "--texts-as takes description or own"),
        (["--score-column", "iqa"], "--score-column takes score, not 'iqa'"),
        (["--out", "x"], "--as xmp writes beside the pictures"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: list[str], sentence: str) -> None:
    out = _store(tmp_path, {"a.jpg": 50.0})
    assert sentence in run_artimuse("export", out, "--as", "xmp", *options, code=2).stderr
    assert not _sidecars(tmp_path)
