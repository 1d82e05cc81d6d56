"""Several evaluations in one matrix: by data set and scores, averages by domain, and differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.evaluate.benchmarks import DOMAIN_MEANS, PUBLISHED_MEANS
from jobs.evaluate.evaluation import Evaluation, SideBySide
from jobs.evaluate.layout import Block, Row
from jobs.evaluate.metrics.estimate import DIFFERENCES, Difference
from jobs.evaluate.text import common_rows, difference_row, number, with_interval


def summary_blocks(evaluations: Sequence[Evaluation], labels: Sequence[str]) -> list[Block]:
    """SRCC / PLCC by data set and scores, what is published in parentheses, and the averages.

    Args:
        evaluations: of one data set and one set of scores each.
        labels: of the scores of each.
    """
    names = list(dict.fromkeys(labels))
    cells: dict[str, dict[str, str]] = {}
    for evaluation, label in zip(evaluations, labels, strict=True):
        agreement, published = evaluation.agreement, evaluation.published
        cell = _both(agreement.srcc.value, agreement.plcc.value)
        if published:
            cell += f" ({published.srcc:.3f} / {published.plcc:.3f})"
        if not evaluation.counts.is_complete:
            cell += f" N = {evaluation.counts.scored:,} of {evaluation.counts.expected:,}"
        cells.setdefault(evaluation.data_set, {})[label] = cell
    rows: list[Row] = [("SRCC / PLCC (published)", *names)]
    rows += [(name, *(found.get(label, "") for label in names)) for name, found in cells.items()]
    return [[*rows, *_means(evaluations, labels, names)]]


def paper_table(evaluations: Sequence[Evaluation], labels: Sequence[str]) -> list[Row]:
    """A table for a paper: a row for each evaluation, with what is published beside it."""
    rows: list[Row] = [("data set", "checkpoint", "N", "SRCC", "PLCC", "KRCC", "published SRCC / PLCC", "difference")]
    for evaluation, label in zip(evaluations, labels, strict=True):
        agreement, published = evaluation.agreement, evaluation.published
        differences = [
            number(None if estimate.value is None else estimate.value - value, signed=True)
            for estimate, value in ((agreement.srcc, published.srcc), (agreement.plcc, published.plcc))
        ] if published else []  # fmt: skip
        n = f"{agreement.n:,}" + ("" if evaluation.counts.is_complete else f" of {evaluation.counts.expected:,}")
        rows.append(
            (
                evaluation.data_set,
                label,
                n if agreement.clusters is None else f"{n} in {agreement.clusters:,} clusters",
                *(with_interval(getattr(agreement, name)) for name in DIFFERENCES),
                f"{published.srcc:.3f} / {published.plcc:.3f}" if published else "",
                " / ".join(differences),
            )
        )
    return rows


def side_by_side_blocks(found: SideBySide, labels: Sequence[str]) -> list[Block]:
    """Several sets of scores against one ground truth: their metrics, and each two of them compared."""
    rows: list[Row] = [("", "N", *(name.upper() for name in DIFFERENCES))]
    rows += [
        (
            label,
            f"{evaluation.agreement.n:,}",
            *(with_interval(getattr(evaluation.agreement, name)) for name in DIFFERENCES),
        )
        for label, evaluation in zip(labels, found.evaluations, strict=True)
    ]
    named = {f"{labels[a]} − {labels[b]}": difference for (a, b), difference in found.differences.items()}
    return [rows, "", *difference_blocks(named)]


def difference_blocks(differences: Mapping[str, Difference]) -> list[Block]:
    """Differences by name, metric after metric, and what they rest on."""
    if not differences:
        return []
    many = len(differences) > 1
    head: Row = ("difference", "first", "second", "difference", "95% interval", "p")
    rows: list[Row] = [(*head, "p, Holm") if many else head]
    for metric in DIFFERENCES:
        rows += [
            difference_row(f"{metric.upper()} {name}", getattr(difference, metric), many)
            for name, difference in differences.items()
        ]
    blocks: list[Block] = [rows, *dict.fromkeys(map(common_rows, differences.values()))]
    if many:
        blocks.append(f"Holm's correction is for the {len(differences)} comparisons of one metric.")
    return blocks


def _means(evaluations: Sequence[Evaluation], labels: Sequence[str], names: Sequence[str]) -> list[Row]:
    """The averages of each domain that the papers average, of the data sets that are there."""
    rows: list[Row] = []
    for domain, members in DOMAIN_MEANS.items():
        cells, most = [], 0
        for name in names:
            found = {
                evaluation.data_set: evaluation
                for evaluation, label in zip(evaluations, labels, strict=True)
                if label == name and evaluation.data_set in members
            }
            cells.append(_mean_cell(domain, list(found.values())))
            most = max(most, len(found))
        if most > 1:
            rows.append((f"{domain}, mean of {most} of {len(members)}", *cells))
    return rows


def _mean_cell(domain: str, evaluations: Sequence[Evaluation]) -> str:
    values = [(one.agreement.srcc.value, one.agreement.plcc.value) for one in evaluations]
    srcc = [value for value, _ in values if value is not None]
    plcc = [value for _, value in values if value is not None]
    if len(values) < 2 or len(srcc) < len(values) or len(plcc) < len(values):
        return ""
    cell = _both(sum(srcc) / len(srcc), sum(plcc) / len(plcc))
    fingerprint = evaluations[0].fingerprint
    published = PUBLISHED_MEANS.get(fingerprint.checkpoint.split("@")[0], {}) if fingerprint else {}
    if domain in published and len(values) == len(DOMAIN_MEANS[domain]):
        cell += f" ({published[domain].srcc:.3f} / {published[domain].plcc:.3f})"
    return cell if len(values) == len(DOMAIN_MEANS[domain]) else f"{cell} of {len(values)}"


def _both(srcc: float | None, plcc: float | None) -> str:
    return f"{number(srcc, places=3)} / {number(plcc, places=3)}"


def distinct_labels(evaluations: Sequence[Evaluation]) -> list[str]:
    """Short labels of scores; whole paths where two of one data set have the same."""
    short = [evaluation.label for evaluation in evaluations]
    cells = [(evaluation.data_set, label) for evaluation, label in zip(evaluations, short, strict=True)]
    if len(set(cells)) == len(cells):
        return short
    return [evaluation.scores for evaluation in evaluations]
