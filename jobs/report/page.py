"""The page: the results in the template; it fetches nothing, and no text in it runs as code."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup

from artimuse_actor.errors import ImageError
from artimuse_actor.uris import without_secrets
from jobs.code_identity import CODE_VERSION
from jobs.evaluate import text as evaluation_text
from jobs.report.charts import BROAD, SLIM, group_outline, score_histogram, summarise
from jobs.report.galleries import Hall
from jobs.report.pictures import Picture
from jobs.report.safe_text import cut, script_json, visible
from jobs.report.thumbnails import Thumbnail
from jobs.store.store import Store
from jobs.words import format_seconds

SHOWN_GROUPS: Final = 24
_SHOWN_BYTES: Final = 2_000  # of any text outside of the pictures' own
_PACKAGE: Final = "jobs.report"


def render(parts: Mapping[str, Any], pictures: Any) -> str:
    """The whole page.

    Args:
        parts: results collected by `report`.
        pictures: result of `picture_data`.
    """
    style, script = _file("page.css"), _file("elements.js") + _file("page.js")
    scored, truth = parts["scored"], parts["truth"]
    points = {name: scores[np.isfinite(scores)] for name, scores in scored.scores.items()}
    return _template().render(
        **parts,
        policy=_policy(style, script),
        style=Markup(style),  # our own files; what is in them is hashed
        script=Markup(script),
        pictures=Markup(script_json(pictures)),
        histograms=[
            tuple(score_histogram(found, score_title(name), width) for width in (BROAD, SLIM))
            for name, found in points.items()
        ],
        summaries={name: summarise(found) for name, found in points.items()},
        groups=_groups(parts),
        metrics=_metrics(parts),
        made_at=datetime.now(UTC),
        version=CODE_VERSION,
        headline=evaluation_text.headline(truth.evaluation.counts, truth.evaluation.agreement) if truth else None,
        method=evaluation_text.method(truth.evaluation.agreement) if truth else None,
    )


def picture_data(
    pictures: Sequence[Picture], halls: Sequence[Hall], found: Mapping[int, Thumbnail | ImageError], store: Store
) -> dict[str, Any]:
    """The pictures with all that is said of them, and the galleries they hang in, for the script of the page."""
    places = {picture.row: place for place, picture in enumerate(pictures)}
    return {
        "pictures": [_about(picture, found.get(picture.row), store) for picture in pictures],
        "galleries": [
            [[places[row], gallery.captions.get(row, "")] for row in gallery.rows]
            for hall in halls
            for gallery in hall.galleries
        ],
    }


def _about(picture: Picture, thumbnail: Thumbnail | ImageError | None, store: Store) -> dict[str, Any]:
    columns = picture.columns
    size = f"{columns['width']:,} × {columns['height']:,} pixels" if columns["width"] and columns["height"] else ""
    about: dict[str, Any] = {
        "id": columns["image_id"],
        "facts": [
            [name, value]
            for name, value in (
                ("File", columns["uri"] if columns["uri"] != columns["image_id"] else None),
                ("Size", " ".join(filter(None, (size, columns["format"])))),
                ("Copied from", columns["copied_from"]),
                ("Warning", columns["warning"]),
            )
            if value
        ],
        "scores": [
            [score_title(name), round(columns[name], 2), round(columns[f"{name}_std"] or 0, 2)]
            for name in store.questions
            if columns[name] is not None and np.isfinite(columns[name])
        ],
        "texts": list(picture.texts.items()),
    }
    if isinstance(thumbnail, Thumbnail):
        about |= {"image": thumbnail.uri, "width": thumbnail.width, "height": thumbnail.height}
    elif thumbnail is not None:
        about["gone"] = visible(without_secrets(f"{thumbnail.error_type}: {thumbnail.message}"))
    return about


def score_title(name: str) -> str:
    """A score column in words."""
    return {"score": "Score", "iaa": "Aesthetics", "iqa": "Quality", "ista": "Structure and texture"}.get(name, name)


def _groups(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The distribution of each group, the largest groups first; what is beyond the page is one group in the end."""
    scored, truth = parts["scored"], parts["truth"]
    agreements: dict[str, Any] = {}
    if truth and truth.evaluation.groups:
        pairs = truth.evaluation.pairs
        codes = pairs.groups.combine_chunks().dictionary_encode()
        names, numbers, points = codes.dictionary.to_pylist(), np.asarray(codes.indices), pairs.scores[0]
        agreements = {group.name: group.agreement.srcc for group in truth.evaluation.groups}
    elif scored.groups is not None:
        names, numbers, points = scored.group_names, scored.groups, scored.scores[parts["question"]]
    else:
        return []
    usable = np.isfinite(points)
    numbers, points = numbers[usable], points[usable]
    counts = np.bincount(numbers, minlength=len(names))
    largest = np.argsort(-counts, kind="stable")
    shown = [
        (names[code] or "(none)", points[numbers == code], agreements.get(names[code]))
        for code in largest[:SHOWN_GROUPS]
        if counts[code]
    ]
    if len(names) > SHOWN_GROUPS:
        others = np.isin(numbers, largest[SHOWN_GROUPS:])
        shown.append((f"{len(names) - SHOWN_GROUPS:,} other groups", points[others], None))
    groups = []
    for name, found, srcc in shown:
        path, said = group_outline(found)
        groups.append({"name": name, "path": path, "said": said, "summary": summarise(found), "srcc": srcc})
    return groups


def _metrics(parts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return evaluation_text.metric_rows(parts["truth"].evaluation) if parts["truth"] else []


@cache
def _file(name: str) -> str:
    return files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """The content security policy: fetch nothing, and run no script but ours."""
    allowed = {
        kind: "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for kind, text in (("style-src", style), ("script-src", script))
    }
    rules = ["default-src 'none'", "img-src data:", *(f"{kind} {source}" for kind, source in allowed.items())]
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jobs", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shown": lambda text: cut(visible(without_secrets(str(text))), _SHOWN_BYTES),
        "count": lambda number: f"{number:,}",
        "points": lambda number: "–" if number is None or not np.isfinite(number) else f"{number:.1f}",
        "share": _share,
        "metric": lambda number: "–" if number is None else f"{number:.4f}",
        "seconds": format_seconds,
        "moment": lambda at: at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return environment.get_template("page.html")


def _share(part: float, whole: float) -> str:
    """A part of a whole in percent, never 0 or 100 unless it is."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "below 0.1 %"
    return f"{min(percent, 99.9) if part < whole else percent:.3g} %"
