"""Choose the pictures of a report: best, worst, some of each tenth, least certain, furthest from ground truth.

Rows go by their numbers here, see `scored_rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobs.curate.equal_hashes import NO_CODE, largest_groups, leaders
from jobs.curate.near_duplicates import default_distance, follow_best
from jobs.report.scored_rows import ScoredRows

TENTHS: Final = 10
_SHOWN_OF_A_GROUP: Final = 4
_GROUP_SHARE: Final = 12  # groups of doubles, at most
_MOST_COMPARED: Final = 2_000_000  # pictures; some twenty seconds

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Gallery:
    """Some pictures in a row.

    Attributes:
        title: the property they share.
        rows: their numbers.
        captions: row → text beside its score.
        images: how many there are of this kind in all, shown or not; None if that is no question.
    """

    title: str
    rows: list[int]
    captions: Mapping[int, str] = field(default_factory=dict)
    images: int | None = None


@dataclass(frozen=True)
class Hall:
    """A section of galleries.

    Attributes:
        name: for links to it.
        title: its heading.
        note: a sentence about how its pictures were found.
        galleries: not empty.
    """

    name: str
    title: str
    note: str
    galleries: list[Gallery]


@dataclass(frozen=True)
class Doubles:
    """Pictures that are the same as another one.

    Attributes:
        same_bytes: pictures with the bytes of another one that is kept in mind, which is not counted.
        look_alike: of the others, pictures that look nearly like a better-scored one.
        distance: bits in which their perceptual hashes may differ.
        groups: the largest, as numbers of rows; those with the same bytes first.
        exact: how many of these groups have the same bytes.
    """

    same_bytes: int
    look_alike: int
    distance: int
    groups: list[Rows]
    exact: int


def room_for(pictures: int, scored: int) -> int:
    """Pictures of a gallery other than the tenths: at most a tenth of those shown, and of those scored or six."""
    return min(pictures // 10, max(6, scored // 10)) or min(pictures, 1)


def ranked_halls(scored: ScoredRows, question: str, pictures: int) -> list[Hall]:
    """The best, the worst, the least certain and each tenth, if there are pictures with a score at all."""
    points = scored.scores[question]
    ok = np.flatnonzero(np.isfinite(points))
    if not len(ok) or not pictures:
        return []
    ascending = ok[np.argsort(points[ok], kind="stable")]
    room = room_for(pictures, len(ok))
    spread = np.where(np.isfinite(scored.spread[ok]), scored.spread[ok], -1)
    unsure = ok[_largest(spread, room)]
    halls = [
        Hall("best", "The best", "The highest scores, best first.", [Gallery("", ascending[::-1][:room].tolist())]),
        Hall("worst", "The worst", "The lowest scores, worst first.", [Gallery("", ascending[:room].tolist())]),
        Hall(
            "unsure",
            "The least certain",
            "Where the model's probabilities are spread widest over the levels from 0 to 100.",
            [Gallery("", unsure.tolist(), {int(row): f"± {scored.spread[row]:.1f}" for row in unsure})],
        ),
    ]
    each = max(1, (pictures - 5 * room) // TENTHS)
    tenths = []
    for number, rows in enumerate(np.array_split(ascending, min(TENTHS, len(ascending))), 1):
        chosen = rows[np.linspace(len(rows) - 1, 0, min(each, len(rows))).round().astype(np.int64)]
        ends = f"{points[rows[0]]:.1f} to {points[rows[-1]]:.1f}"
        tenths.append(Gallery(f"Tenth {number}: {ends} points", chosen.tolist(), images=len(rows)))
    note = "All images by score, the best first, in ten parts of equal size; of each part some at equal distances."
    return [Hall("tenths", "Tenth by tenth", note, tenths[::-1]), *halls]


def disagreement_hall(
    rows: Rows, truths: NDArray[np.float64], residuals: NDArray[np.float64], room: int
) -> Hall | None:
    """Pictures whose scores and ground truth differ most, after the linear mapping of scores onto ground truth.

    Args:
        rows: (M,) of the store.
        truths: (M,) ground truth.
        residuals: (M,) ground truth less what the mapping makes of the score; NaN without.
        room: most pictures to show.
    """
    galleries = []
    for title, sign in (("Scored too high", -1.0), ("Scored too low", 1.0)):
        apart = np.where(np.isfinite(residuals), sign * residuals, -np.inf)
        chosen = [at for at in _largest(apart, max(1, room // 2)) if apart[at] > 0]
        if chosen:
            captions = {int(rows[at]): f"truth {truths[at]:.3g}" for at in chosen}
            galleries.append(Gallery(title, list(captions), captions))
    if not galleries:
        return None
    note = "By what the line truth ≈ slope · score + intercept leaves of the ground truth; furthest apart first."
    return Hall("disagreements", "Furthest from the ground truth", note, galleries)


def find_doubles(scored: ScoredRows) -> Doubles:
    """Exact doubles, and pictures with nearly the same perceptual hash."""
    leader = leaders(scored.same_bytes)
    firsts = np.flatnonzero(leader == np.arange(len(leader)))
    # Of exact doubles one stands for all, so that look-alikes are different files.
    near, distance = _near_leaders(scored, firsts)
    exact = largest_groups(leader, _GROUP_SHARE // 2)
    alike = largest_groups(near, _GROUP_SHARE - len(exact))
    look_alike = int((near[firsts] != firsts).sum())
    return Doubles(len(leader) - len(firsts), look_alike, distance, exact + alike, len(exact))


def _near_leaders(scored: ScoredRows, firsts: Rows) -> tuple[Rows, int]:
    """For each row the best-scored one that it nearly equals, else itself; and within how many bits: (N,)."""
    near = np.arange(len(scored), dtype=np.int64)
    hashed = firsts[scored.looks[firsts] != NO_CODE]
    # Equal hashes only where a search for near ones would take minutes.
    distance = default_distance(len(hashed)) if len(hashed) <= _MOST_COMPARED else 0
    points = next(iter(scored.scores.values()))[hashed]
    best = hashed[np.lexsort((hashed, -np.nan_to_num(points, nan=-1.0)))]
    near[best] = best[follow_best(scored.looks[best], distance).leader]
    return near, distance


def doubles_hall(doubles: Doubles, room: int) -> Hall | None:
    """The largest groups, as far as there is room for their pictures, of each four at most; two groups in any case."""
    galleries = []
    pictures = np.cumsum([min(len(rows), _SHOWN_OF_A_GROUP) for rows in doubles.groups])
    shown = max(2, int((pictures <= room).sum()))
    for number, rows in enumerate(doubles.groups[:shown] if room else []):
        kind = "the same bytes" if number < doubles.exact else "nearly the same look"
        galleries.append(Gallery(f"{len(rows):,} images with {kind}", rows[:_SHOWN_OF_A_GROUP].tolist()))
    if not galleries:
        return None
    parts = (
        (doubles.same_bytes, "the bytes of another one"),
        (
            doubles.look_alike,
            f"other bytes and a perceptual hash within {doubles.distance} of 64 bits of a better one's",
        ),
    )
    note = "; ".join(f"{_images(count)} {what}" for count, what in parts if count) + ". The largest groups:"
    return Hall("doubles", "The same picture again", note, galleries)


def at_most(halls: Iterable[Hall], pictures: int) -> list[Hall]:
    """Limit halls to so many different pictures; the last ones are left out."""
    shown: set[int] = set()
    kept = []
    for hall in halls:
        galleries = []
        for gallery in hall.galleries:
            rows = []
            for row in gallery.rows:
                if row in shown or len(shown) < pictures:
                    shown.add(row)
                    rows.append(row)
            if rows:
                galleries.append(replace(gallery, rows=rows))
        if galleries:
            kept.append(replace(hall, galleries=galleries))
    return kept


def rows_of(halls: Iterable[Hall]) -> list[int]:
    """All rows that are shown, each once, in the order of their first appearance."""
    return list(dict.fromkeys(row for hall in halls for gallery in hall.galleries for row in gallery.rows))


def _images(count: int) -> str:
    return f"{count:,} image has" if count == 1 else f"{count:,} images have"


def _largest(values: NDArray[np.floating], count: int) -> Rows:
    """The places of the largest values, largest first; of equals the first."""
    count = min(count, len(values))
    if not count:
        return np.empty(0, dtype=np.int64)
    if count < len(values):
        least = np.partition(values, len(values) - count)[len(values) - count]
        above = np.flatnonzero(values > least)
        places = np.r_[above, np.flatnonzero(values == least)[: count - len(above)]]
    else:
        places = np.arange(len(values))
    best: Rows = places[np.lexsort((places, -values[places]))].astype(np.int64)
    return best
