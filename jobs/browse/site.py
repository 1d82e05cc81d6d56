"""The requests of the page, and their answers from one store."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np

from artimuse_actor.errors import UsageError
from jobs.browse.catalogue import Catalogue
from jobs.browse.marks import Marks
from jobs.browse.page import page
from jobs.browse.pictures import SIZES, Pictures
from jobs.browse.search import Search
from jobs.browse.server import Answer, Asked, Page
from jobs.export.xmp.rating import rate
from jobs.report.page import score_title
from jobs.report.safe_text import visible
from jobs.store.store import Store
from schemas.scores import OK
from schemas.warnings import WARNINGS

MOST_ROWS: Final = 500
_SHORT, _LONG = 300, 20_000
_LISTED: Final = ("image_id", "status", "error_type", "moment::VARCHAR AS moment", "width", "height")


class Site:
    """One store as a site; its methods may be called from several threads."""

    def __init__(self, name: str, marks: Marks, pictures: Pictures, root: str | None) -> None:
        """Read the rows of the store.

        Args:
            name: the --out of runs.
            marks: of its pictures.
            pictures: that read its images.
            root: the folder or prefix that images must lie in; None allows all.

        Raises:
            StoreError: there is no store, or a file of it is gone or not whole.
            UsageError: a mark is of a picture that the store does not have.
        """
        self._name, self._marks, self._pictures, self._root = name, marks, pictures, root
        self._turn = threading.Lock()
        self._catalogue = self._read(1)
        there = self._catalogue.marked_rows(marks.ids)["image_id"].to_pylist()
        if missing := set(marks.ids).difference(there):
            raise UsageError(
                f"--marks {marks.file}: marks pictures that {name} does not have ({len(missing):,}), such as "
                f"{min(missing)!r}. Name another file, or the store that was marked."
            )

    def pages(self) -> Mapping[tuple[str, str], Page]:
        """Method and name of each request → its answer."""
        return {
            ("GET", ""): self._page,
            ("GET", "about"): self._about,
            ("GET", "rows"): self._rows,
            ("GET", "picture"): self._picture,
            ("GET", "one"): self._one,
            ("GET", "marks.parquet"): self._manifest,
            ("POST", "mark"): self._mark,
            ("POST", "stars"): self._stars,
        }

    def close(self) -> None:
        """Give the memory back."""
        self._catalogue.close()

    @property
    def rows(self) -> int:
        """Number of rows."""
        count: int = self._catalogue.summary()["rows"]
        return count

    def _read(self, edition: int) -> Catalogue:
        return Catalogue(Store.open(self._name), self._name, edition)

    def _page(self, _: Asked) -> Answer:
        """The page itself; what runs have added since is read now."""
        with self._turn:
            if not self._catalogue.is_current():
                before = self._catalogue
                self._catalogue = self._read(before.edition + 1)
                before.close()
        return page(visible(self._title()))

    def _title(self) -> str:
        root = self._catalogue.store.place.root
        return os.path.basename(root.rstrip("/")) or root

    def _asked(self, asked: Asked) -> Catalogue:
        """The catalogue, if the request knows its rows. Raises UsageError."""
        catalogue = self._catalogue
        if str(asked.get("edition")) != str(catalogue.edition):
            raise UsageError("The store has changed. Load this page again.")
        return catalogue

    def _about(self, _: Asked) -> Answer:
        catalogue = self._catalogue
        store, summary = catalogue.store, catalogue.summary()
        for kind in ("formats", "errors"):
            summary[kind] = [[name, visible(name), rows] for name, rows in summary[kind]]
        return Answer.of(
            {
                **summary,
                "edition": catalogue.edition,
                "root": visible(store.place.root),
                "checkpoint": visible(store.fingerprint.checkpoint),
                "questions": [[name, score_title(name)] for name in store.questions],
                "has_texts": bool(catalogue.files.described),
                "marked": len(self._marks),
                "marks_file": visible(self._marks.file) if self._marks.file else None,
            }
        )

    def _rows(self, asked: Asked) -> Answer:
        catalogue = self._asked(asked)
        search = _search(asked, catalogue)
        numbers = catalogue.find(search, self._marks.ids if search.marked else ())
        if numbers is None:
            return Answer.error(409, "A later search has taken its turn.")
        start, count = _whole(asked, "from"), _whole(asked, "count")
        some = numbers[start : start + min(count, MOST_ROWS)]
        columns = [*_LISTED, *(f'"{name}"' for name in _scores(search.question))]
        return Answer.of(
            {
                "total": len(numbers),
                "rows": [
                    {
                        "number": row["number"],
                        "id": _shown(row["image_id"], _SHORT),
                        "score": _points(row.get(search.question)),
                        "spread": _points(row.get(f"{search.question}_std")),
                        "day": row["moment"][:10],
                        "error": visible(row["error_type"] or "error") if row["status"] != OK else None,
                        "size": [row["width"], row["height"]],
                        "marked": row["image_id"] in self._marks,
                    }
                    for row in catalogue.rows(some, columns)
                ],
            }
        )

    def _one(self, asked: Asked) -> Answer:
        catalogue, row = self._row(asked)
        store = catalogue.store
        size = f"{row['width']:,} × {row['height']:,} pixels" if row["width"] and row["height"] else ""
        warnings = [f"{name}: {WARNINGS.get(name, '')}".rstrip(": ") for name in (row["warning"] or "").split("+")]
        facts = (
            ("File", row["uri"] if row["uri"] != row["image_id"] else None),
            ("Size", " ".join(filter(None, (size, row["format"])))),
            ("Taken", _moment(row["taken_at"])),
            ("Camera", row["camera"]),
            ("Warning", "\n".join(filter(None, warnings))),
            ("Copied from", row["copied_from"]),
            ("Scored" if row["status"] == OK else "Tried", f"{_moment(row['scored_at'])} UTC"),
            ("Run", row["run_id"]),
        )
        try:
            texts = catalogue.texts.of(row["number"], row["image_id"])
        except FileNotFoundError:
            texts = {}
        return Answer.of(
            {
                "id": _shown(row["image_id"], _LONG),
                "scores": [
                    [score_title(name), points, _points(row[f"{name}_std"])]
                    for name in store.questions
                    if (points := _points(row[name])) is not None
                ],
                "error": _shown(f"{row['error_type']}: {row['error_message']}", _LONG) if row["status"] != OK else None,
                "facts": [[name, _shown(value, _LONG)] for name, value in facts if value],
                "texts": [[_shown(title, _SHORT), _shown(text, _LONG)] for title, text in texts.items()],
                "marked": row["image_id"] in self._marks,
            }
        )

    def _picture(self, asked: Asked) -> Answer:
        size = asked.get("size", "")
        if size not in SIZES:
            raise UsageError(f"size takes {' or '.join(SIZES)}.")
        _, row = self._row(asked)
        return Answer(self._pictures.jpeg(row["uri"], row["version"], size), "image/jpeg")

    def _row(self, asked: Asked) -> tuple[Catalogue, dict[str, Any]]:
        """The row that a request names. Raises UsageError."""
        catalogue = self._asked(asked)
        for row in catalogue.rows([_whole(asked, "number")]):
            return catalogue, row
        raise UsageError("The store has no such row.")

    def _mark(self, asked: Asked) -> Answer:
        catalogue = self._asked(asked)
        if isinstance(wanted := asked.get("search"), dict):
            search = _search(wanted, catalogue)
            numbers = catalogue.find(search, self._marks.ids if search.marked else ())
            if numbers is None:
                return Answer.error(409, "A later search has taken its turn.")
        else:
            numbers = np.array([self._row(asked)[1]["number"]])
        ids = catalogue.ids_of(numbers)
        if not ids and len(numbers):
            raise UsageError(
                "This image was embedded in a table, and has no file of its own. `artimuse curate --manifest` chooses "
                "such images."
            )
        self._marks.change(ids, catalogue, marked=bool(asked.get("marked")))
        return Answer.of({"marked": len(self._marks)})

    def _manifest(self, asked: Asked) -> Answer:
        catalogue = self._asked(asked)
        headers = {"Content-Disposition": 'attachment; filename="marks.parquet"'}
        return Answer(self._marks.manifest(catalogue), "application/vnd.apache.parquet", headers=headers)

    def _stars(self, asked: Asked) -> Answer:
        catalogue = self._asked(asked)
        files = catalogue.files_of(self._marks.ids)
        done = rate(
            catalogue.store.place,
            files,
            _whole(asked, "stars"),
            overwrite=asked.get("overwrite") is True,
            root=self._root,
        )
        self._marks.unsaved = False
        return Answer.of({"lines": [visible(line) for line in done.lines()]})


def _search(asked: Asked, catalogue: Catalogue) -> Search:
    texts = {name: value for name, value in asked.items() if isinstance(value, str)}
    return Search.of(texts, catalogue.store.questions)


def _whole(asked: Asked, name: str) -> int:
    """A whole number among the parameters. Raises UsageError."""
    text = str(asked.get(name, ""))
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise UsageError(f"{name} takes a whole number.")
    return int(text)


def _scores(question: str) -> tuple[str, ...]:
    return (question, f"{question}_std") if question else ()


def _points(value: float | None) -> float | None:
    return round(value, 2) if value is not None and math.isfinite(value) else None


def _moment(value: datetime | None) -> str | None:
    return value.strftime("%Y-%m-%d %H:%M:%S") if value else None


def _shown(text: str, most: int) -> str:
    """A text that strangers wrote, as people can read it."""
    return visible(text if len(text) <= most else f"{text[:most]}…")
