"""An evaluation in words and tables, for the screen and for Markdown alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from jobs.evaluate.benchmarks import known_by
from jobs.evaluate.evaluation import Comparison, Evaluation
from jobs.evaluate.join import JoinCounts
from jobs.evaluate.layout import Block, Row
from jobs.evaluate.metrics.estimate import DIFFERENCES, JACKKNIFE, Agreement, Difference, Estimate, MetricDifference
from jobs.words import by_count, one_line_name
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
}


def evaluation_blocks(evaluation: Evaluation) -> list[Block]:
    """Everything about one set of scores: its origin, counts, notes, metrics, groups and comparison."""
    counts, agreement = evaluation.counts, evaluation.agreement
    blocks: list[Block] = [
        f"{evaluation.data_set}: {_scores_line(evaluation)} against {evaluation.ground_truth}",
        f"{headline(counts, agreement)}; joined by {counts.matched_by}",
    ]
    if not counts.is_complete:
        examples = ", ".join(map(one_line_name, counts.examples))
        more = ", …" if len(counts.examples) < counts.expected - counts.scored else ""
        blocks.append(f"  without a score: {examples}{more}")
    blocks += [f"  {note}" for note in evaluation.notes]
    blocks += [f"  ground truth: {truth_identity(evaluation)}", "", metric_rows(evaluation), method(agreement)]
    if agreement.clusters is not None:
        blocks.append(f"Clusters are told by {evaluation.cluster_by}; each is drawn, or left out, whole.")
    if evaluation.published:
        blocks.append(published_line(evaluation))
    if evaluation.groups:
        head: Row = (one_line_name(str(evaluation.group_by)), "N", "SRCC", "PLCC", "KRCC")
        rows: list[Row] = [
            (
                one_line_name(group.name) or "(none)",
                f"{group.agreement.n:,}" + ("" if group.agreement.n == group.expected else f" of {group.expected:,}"),
                *(with_interval(getattr(group.agreement, name)) for name in DIFFERENCES),
            )
            for group in evaluation.groups
        ]
        blocks += ["", [head, *rows]]
    if evaluation.against:
        blocks += _comparison_blocks(evaluation.against)
    return blocks


def headline(counts: JoinCounts, agreement: Agreement | None = None) -> str:
    """Number of rows behind the metrics, their clusters, and the reasons why the others are left out."""
    parts = [f"N = {counts.scored:,}" + ("" if counts.is_complete else f" of {counts.expected:,}")]
    if agreement and agreement.clusters is not None:
        parts[0] += f" in {agreement.clusters:,} clusters"
    if not counts.is_complete:
        errors = by_count(counts.errors)
        named = {
            f"failed ({errors})" if errors else "failed": counts.failed,
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


def truth_identity(evaluation: Evaluation) -> str:
    """The content hash of the ground truth, and whether it is the published one."""
    sha256, benchmark = evaluation.pairs.truth_sha256, evaluation.benchmark
    if benchmark is None:
        return f"sha256 {sha256}"
    known = "as published" if benchmark.truth_sha256 == sha256 else "is not as published"
    return f"sha256 {sha256} ({benchmark.name} {known})"


def published_line(evaluation: Evaluation) -> str:
    """The origin of the published values, and by what they belong to this checkpoint."""
    source = evaluation.published.source if evaluation.published else ""
    checkpoint = evaluation.fingerprint.checkpoint if evaluation.fingerprint else ""
    return f"Published: {source}; {known_by(checkpoint)}."


def metric_rows(evaluation: Evaluation) -> list[Row]:
    """A row for each metric: its title, value, interval and, where something is published, that and the difference."""
    published = evaluation.published
    rows: list[Row] = [("", "value", f"{evaluation.agreement.confidence:.0%} interval")]
    if published:
        rows = [(*rows[0], "published", "difference")]
    for name in METRIC_NAMES:
        estimate = getattr(evaluation.agreement, name)
        if estimate is None:
            continue
        row: Row = (
            _title(name, evaluation),
            number(estimate.value),
            ends(estimate.low, estimate.high) or estimate.reason or "",
        )
        if published:
            theirs = getattr(published, name, None)
            difference = None if theirs is None or estimate.value is None else estimate.value - theirs
            row = (*row, "" if theirs is None else f"{theirs:.3f}", number(difference, signed=True))
        rows.append(row)
    return rows


def _title(name: str, evaluation: Evaluation) -> str:
    if name not in ("accuracy", "accuracy_direct"):
        return TITLES[name]
    base = evaluation.agreement.base_rate
    asked = f"truth > {evaluation.threshold:g}"
    rule = f"{asked} by the line" if name == "accuracy" else f"{asked}, score > {evaluation.score_threshold:g}"
    return f"accuracy: {rule}" + ("" if base is None else f" (base rate {base:.4f})")


def correlations(agreement: Agreement) -> str:
    """The correlations that are defined, with three digits, for a title."""
    found = {name: getattr(agreement, name).value for name in DIFFERENCES}
    return ", ".join(f"{name.upper()} {value:.3f}" for name, value in found.items() if value is not None)


def interval_method(agreement: Agreement) -> str:
    """The method behind the intervals of correlations."""
    how = f"Intervals: {agreement.interval}"
    noun = "pairs" if agreement.clusters is None else "clusters"
    if agreement.interval == JACKKNIFE:
        how += f" on Fisher's z, {agreement.resamples:,} {noun} left out in turn"
    else:
        how += f", {agreement.resamples:,} resamples"
        if agreement.resample_units < agreement.units:
            how += f" of {agreement.resample_units:,} {noun}, scaled to {agreement.units:,}"
        how += f", seed {agreement.seed}"
    return how


def method(agreement: Agreement) -> str:
    """One sentence about the method behind the metrics."""
    how = interval_method(agreement)
    if agreement.interval != JACKKNIFE:
        how += f"; of RMSE and MAE: {JACKKNIFE}, on the logarithm"
    if agreement.slope is not None and agreement.intercept is not None:
        how += f". RMSE and MAE after truth ≈ {agreement.slope:.4g} · score {agreement.intercept:+.4g}"
    return how + "."


def difference_row(title: str, found: MetricDifference, corrected: bool) -> Row:
    """One metric of two sets of scores, on the same rows."""
    row: Row = (
        title,
        number(found.first),
        number(found.second),
        number(found.value, signed=True),
        ends(found.low, found.high) or found.reason or "",
        p_value(found.p_value),
    )
    return (*row, p_value(found.p_corrected)) if corrected else row


def common_rows(difference: Difference) -> str:
    """The rows and the method behind differences."""
    clusters = "" if difference.clusters is None else f" in {difference.clusters:,} clusters"
    return (
        f"On the {difference.n:,} rows{clusters} that all have scored, the same drawn, or left out, for all; intervals "
        f"and p by Student's t, with the standard errors of the {difference.interval.split()[0].rstrip(',')}."
    )


def _comparison_blocks(against: Comparison) -> list[Block]:
    head: Row = ("", "this", "other", "difference", "95% interval", "p")
    rows = [difference_row(TITLES[name], getattr(against.difference, name), False) for name in DIFFERENCES]
    origin = f": {against.fingerprint}" if against.fingerprint else ""
    blocks: list[Block] = [
        "",
        f"against {against.out}{origin}",
        headline(against.counts),
        [head, *rows],
        common_rows(against.difference),
    ]
    if against.disagreements:
        blocks.append("furthest apart:")
        blocks += [
            f"  {one_line_name(row.key)}: {row.score:.2f} and {row.other:.2f} (ground truth {row.truth:g})"
            for row in against.disagreements
        ]
    return blocks


def _scores_line(evaluation: Evaluation) -> str:
    origin: Fingerprint | str = evaluation.fingerprint or evaluation.scores
    return f"{evaluation.question} of {origin}"


def number(value: float | None, *, signed: bool = False, places: int = 4) -> str:
    """A metric, or a dash."""
    if value is None:
        return "–"
    return f"{value:+.{places}f}" if signed else f"{value:.{places}f}"


def p_value(value: float | None) -> str:
    """A p-value; those that no method of this kind can tell apart are only said to be small."""
    if value is None:
        return ""
    return f"{value:.3g}" if value >= 1e-12 else "< 1e-12"


def ends(low: float | None, high: float | None) -> str:
    """An interval, or nothing."""
    return "" if low is None or high is None else f"{low:.4f} to {high:.4f}"


def with_interval(estimate: Estimate) -> str:
    """A metric and its interval in parentheses."""
    interval = ends(estimate.low, estimate.high)
    return f"{number(estimate.value)} ({interval})" if interval else number(estimate.value)
