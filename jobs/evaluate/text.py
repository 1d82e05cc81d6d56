"""An evaluation in words: on the screen, as Markdown for a paper, as JSON for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from jobs.evaluate.evaluation import Comparison, Evaluation
from jobs.evaluate.join import JoinCounts
from jobs.evaluate.metrics.estimate import Agreement, Estimate
from jobs.words import printable, show
from schemas.fingerprint import Fingerprint
from schemas.metrics import METRIC_NAMES

TITLES: Final[Mapping[str, str]] = {
    "srcc": "SRCC",
    "plcc": "PLCC",
    "plcc_logistic4": "PLCC, 4-parameter logistic",
    "plcc_logistic5": "PLCC, 5-parameter logistic",
    "krcc": "KRCC (tau-b)",
    "rmse": "RMSE",
    "mae": "MAE",
    "accuracy": "accuracy",
}


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """JSON for scripts: everything except the rows themselves."""
    published = evaluation.published
    return {
        "data_set": evaluation.data_set,
        "ground_truth": evaluation.ground_truth,
        "question": evaluation.question,
        "fingerprint": asdict(evaluation.fingerprint) if evaluation.fingerprint else None,
        "counts": _counts_json(evaluation.counts),
        "metrics": asdict(evaluation.agreement),
        "threshold": evaluation.threshold,
        "groups": {group.name: {"expected": group.expected, **asdict(group.agreement)} for group in evaluation.groups},
        "published": asdict(published) if published else None,
        "notes": evaluation.notes,
        "against": _comparison_json(evaluation.against) if evaluation.against else None,
    }


def _counts_json(counts: JoinCounts) -> dict[str, Any]:
    return {**vars(counts), "errors": dict(counts.errors)}


def _comparison_json(against: Comparison) -> dict[str, Any]:
    return {
        "out": against.out,
        "fingerprint": asdict(against.fingerprint),
        "counts": _counts_json(against.counts),
        "metrics": asdict(against.agreement),
        "difference": asdict(against.difference),
        "disagreements": [asdict(row) for row in against.disagreements],
    }


def headline(counts: JoinCounts) -> str:
    """Number of rows behind the metrics, and the reasons why the others are left out."""
    parts = [f"N = {counts.scored:,}"]
    if not counts.is_complete:
        parts = [f"N = {counts.scored:,} of {counts.expected:,}"]
        errors = ", ".join(f"{number:,} {kind}" for kind, number in counts.errors.most_common())
        named = {
            f"failed ({errors})": counts.failed,
            "missing": counts.missing,
            "ambiguous (several images have this name)": counts.ambiguous,
        }
        parts += [f"{number:,} {what}" for what, number in named.items() if number]
    others = (
        (counts.doubled, "row of ground truth names an image again", "rows of ground truth name an image again"),
        (counts.without_truth, "row of ground truth has no number", "rows of ground truth have no number"),
        (counts.extra, "image without ground truth", "images without ground truth"),
    )
    parts += [f"{number:,} {one if number == 1 else many}" for number, one, many in others if number]
    return "; ".join(parts)


def show_evaluation(evaluation: Evaluation) -> None:
    """Print an evaluation on the screen."""
    scores = _scores_line(evaluation.fingerprint, evaluation.question)
    show(f"{evaluation.data_set}: {scores} against {evaluation.ground_truth}")
    show(f"{headline(evaluation.counts)}; joined by {evaluation.counts.matched_by}")
    if not evaluation.counts.is_complete:
        examples = ", ".join(printable(example) for example in evaluation.counts.examples)
        show(f"  without a score: {examples}{', …' if len(evaluation.counts.examples) < _absent(evaluation) else ''}")
    for note in evaluation.notes:
        show(f"  {note}")
    show()
    for line in _table(metric_rows(evaluation)):
        show(line)
    show(method(evaluation.agreement))
    if evaluation.groups:
        show()
        rows: list[tuple[str, ...]] = [(str(evaluation.group_by), "N", "SRCC", "PLCC", "KRCC")]
        rows += [
            (
                printable(group.name) or "(none)",
                f"{group.agreement.n:,}" + ("" if group.agreement.n == group.expected else f" of {group.expected:,}"),
                *(_with_interval(getattr(group.agreement, name)) for name in ("srcc", "plcc", "krcc")),
            )
            for group in evaluation.groups
        ]
        for line in _table(rows):
            show(line)
    if evaluation.against:
        _show_comparison(evaluation, evaluation.against)


def _absent(evaluation: Evaluation) -> int:
    return evaluation.counts.expected - evaluation.counts.scored


def _show_comparison(evaluation: Evaluation, against: Comparison) -> None:
    show(f"\nagainst {against.out}: {against.fingerprint}")
    show(headline(against.counts))
    rows = [("", "this", "other", "difference", "95% interval", "p")]
    for name in ("srcc", "plcc", "krcc"):
        difference = getattr(against.difference, name)
        rows.append(
            (
                TITLES[name],
                _number(getattr(evaluation.agreement, name).value),
                _number(getattr(against.agreement, name).value),
                _number(difference.value, signed=True),
                _ends(difference.low, difference.high) or difference.reason or "",
                "" if difference.p_value is None else f"{difference.p_value:.3g}",
            )
        )
    for line in _table(rows):
        show(line)
    show(f"On the {against.difference.n:,} rows that both have scored; the same rows are drawn for both.")
    if against.disagreements:
        show("furthest apart:")
        for row in against.disagreements:
            show(f"  {printable(row.key)}: {row.score:.2f} and {row.other:.2f} (ground truth {row.truth:g})")


def metric_rows(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """A row for each metric: its title, value, interval and, where something is published, that and the difference."""
    published = evaluation.published
    rows: list[tuple[str, ...]] = [("", "value", f"{evaluation.agreement.confidence:.0%} interval")]
    if published:
        rows = [(*rows[0], "published", "difference")]
    for name in METRIC_NAMES:
        estimate = getattr(evaluation.agreement, name)
        if estimate is None:
            continue
        title = TITLES[name]
        if name == "accuracy":
            title = f"accuracy at {evaluation.threshold:g}"
        row: tuple[str, ...] = (
            title,
            _number(estimate.value),
            _ends(estimate.low, estimate.high) or estimate.reason or "",
        )
        if published:
            theirs = getattr(published, name, None)
            difference = None if theirs is None or estimate.value is None else estimate.value - theirs
            row = (*row, "" if theirs is None else f"{theirs:.3f}", _number(difference, signed=True))
        rows.append(row)
    return rows


def method(agreement: Agreement) -> str:
    """One sentence about the method behind the metrics."""
    how = f"Intervals: {agreement.interval}, {agreement.resamples:,} resamples"
    if agreement.resample_pairs < agreement.n:
        how += f" of {agreement.resample_pairs:,} pairs, scaled to {agreement.n:,}"
    how += f", seed {agreement.seed}"
    if agreement.slope is not None and agreement.intercept is not None:
        how += f". RMSE and MAE after truth ≈ {agreement.slope:.4g} · score {agreement.intercept:+.4g}"
    return how + "."


def markdown(evaluations: Sequence[Evaluation]) -> str:
    """A table for a paper: a row for each evaluation, with what is published beside it."""
    lines = [
        "| data set | checkpoint | N | SRCC (interval) | PLCC (interval) | KRCC | published SRCC / PLCC | difference |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for evaluation in evaluations:
        agreement, published = evaluation.agreement, evaluation.published
        theirs = f"{published.srcc:.3f} / {published.plcc:.3f}" if published else ""
        apart = [
            _number(None if estimate.value is None else estimate.value - value, signed=True)
            for estimate, value in ((agreement.srcc, published.srcc), (agreement.plcc, published.plcc))
        ] if published else []  # fmt: skip
        cells = (
            evaluation.data_set,
            _checkpoint(evaluation.fingerprint),
            f"{agreement.n:,}" + ("" if evaluation.counts.is_complete else f" of {evaluation.counts.expected:,}"),
            _with_interval(agreement.srcc),
            _with_interval(agreement.plcc),
            _number(agreement.krcc.value),
            theirs,
            " / ".join(apart),
        )
        lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    sources = {evaluation.published.source for evaluation in evaluations if evaluation.published}
    lines += ["", method(evaluations[0].agreement)] if evaluations else []
    if sources:
        lines.append(f"Published: {'; '.join(sorted(sources))}.")
    return "\n".join(lines)


def matrix(evaluations: Sequence[Evaluation]) -> list[str]:
    """SRCC / PLCC by data set and checkpoint, what is published in parentheses."""
    checkpoints = list(dict.fromkeys(_checkpoint(evaluation.fingerprint) for evaluation in evaluations))
    cells: dict[str, dict[str, str]] = {}
    for evaluation in evaluations:
        agreement, published = evaluation.agreement, evaluation.published
        cell = f"{_number(agreement.srcc.value, places=3)} / {_number(agreement.plcc.value, places=3)}"
        if published:
            cell += f" ({published.srcc:.3f} / {published.plcc:.3f})"
        if not evaluation.counts.is_complete:
            cell += f" N = {evaluation.counts.scored:,} of {evaluation.counts.expected:,}"
        cells.setdefault(evaluation.data_set, {})[_checkpoint(evaluation.fingerprint)] = cell
    rows = [("SRCC / PLCC (published)", *checkpoints)]
    rows += [(name, *(found.get(checkpoint, "") for checkpoint in checkpoints)) for name, found in cells.items()]
    return _table(rows)


def _checkpoint(fingerprint: Fingerprint | None) -> str:
    return f"{fingerprint.checkpoint}@{fingerprint.checkpoint_digest[:6]}" if fingerprint else ""


def _scores_line(fingerprint: Fingerprint | None, question: str) -> str:
    return f"{question} of {fingerprint}" if fingerprint else question


def _cell(text: str) -> str:
    """Any text, escaped for a cell of a Markdown table."""
    return printable(text).replace("\n", " ").replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _number(value: float | None, *, signed: bool = False, places: int = 4) -> str:
    if value is None:
        return "–"
    return f"{value:+.{places}f}" if signed else f"{value:.{places}f}"


def _ends(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def _with_interval(estimate: Estimate) -> str:
    ends = _ends(estimate.low, estimate.high)
    return f"{_number(estimate.value)} ({ends})" if ends else _number(estimate.value)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns of equal width, the first to the left, the others to the right; a long last one hangs over."""
    widths = [max(len(row[column]) for row in rows if len(row[column]) < 60) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return lines
