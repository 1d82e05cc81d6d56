"""Accuracies on multiple-choice questions in words and tables, in every format of the command."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from jobs.evaluate.benchmarks import known_by
from jobs.evaluate.layout import Block, Row, as_latex, as_markdown, on_screen
from jobs.evaluate.metrics.estimate import Estimate
from jobs.evaluate.output import Format, csv_text
from jobs.evaluate.text import p_value
from jobs.evaluate.vqa.accuracy import CHOICES, Accuracies, PairedComparison
from jobs.evaluate.vqa.evaluation import VqaEvaluation, accuracies_json, outcome_line
from jobs.evaluate.vqa.presets import ISTA_REMARK, LISTS, PUBLISHED_MEANS, SOURCE
from jobs.evaluate.vqa.run import VqaResults
from jobs.words import one_line_name, show

_HEAD: Row = ("", "accuracy", "95% interval", "right")


def show_vqa(found: VqaResults, form: Format) -> None:
    """Print the matrix of results in a format."""
    missing = [f"  {name} is absent: {why}" for name, why in found.absent.items()]
    missing += [f"  {cell} failed: {why}" for cell, why in found.failed.items()]
    if form == "json":
        broken = {**found.absent, **found.failed}
        cells = [one.to_json() for one in found.evaluations]
        print(json.dumps([*cells, *({"cell": name, "error": why} for name, why in broken.items())]))
    elif form == "csv":
        show(csv_text(pa.Table.from_pylist([row for one in found.evaluations for row in _csv_rows(one)])))
    elif form == "latex":
        show(as_latex(_paper_table(found.evaluations), _caption(found.evaluations)))
    else:
        blocks: list[Block] = []
        for one in found.evaluations:
            blocks += [*([""] if blocks else []), *_blocks(one)]
        if len(found.evaluations) > 1:
            blocks += ["", _matrix(found.evaluations)]
        blocks += [*([""] if blocks and missing else []), *missing]
        if form == "markdown":
            show(as_markdown([_paper_table(found.evaluations), *blocks]))
        else:
            show(on_screen(blocks))


def _blocks(found: VqaEvaluation) -> list[Block]:
    """Everything about one set of replies."""
    table, preset = found.table, found.preset
    lengths = table["finish_reason"].to_pylist().count("length")
    blocks: list[Block] = [
        f"{found.data_set}: replies of {found.fingerprint} to {found.questions}",
        f"{outcome_line(found)}; about {found.accuracies.images:,} images; what is not answered counts as wrong",
    ]
    if other := _other_list(found):
        blocks.append(f"  {other}")
    odd = sum(choice is not None and choice not in "ABCD" for choice in table["choice"].to_pylist())
    if odd:
        blocks.append(f"  {odd:,} replies begin with none of the letters: the published parser counts them as wrong.")
    if lengths:
        blocks.append(f"  {lengths:,} replies were cut at the limit.")
    blocks.append(f"  questions: sha256 {found.questions_sha256}")
    published = found.published
    rows: list[Row] = [_HEAD if published is None else (*_HEAD, "published", "difference")]
    for column, title in CHOICES.items():
        row = _row(title, found.accuracies, column)
        if published is not None:
            ours = found.accuracies.estimates[column].value
            shown = column == "choice" and ours is not None
            row = (*row, *((f"{published:.2f}", f"{100 * (ours or 0) - published:+.2f}") if shown else ("", "")))
        rows.append(row)
    chance = f"; guessing: {preset.chance:.2f} (published)" if preset else ""
    blocks += [
        "",
        rows,
        f"In percent. Always the commonest letter: {100 * found.base_rate:.2f}{chance}. {_method(found)}",
    ]
    if published is not None:
        blocks.append(_published_line(found))
    if found.groups:
        blocks += ["", *_group_blocks(found)]
    if found.against:
        blocks += ["", *_comparison_blocks(found.checkpoint, found.against)]
    blocks.append(f"{found.out}/answers: written.")
    return blocks


def _published_line(found: VqaEvaluation) -> str:
    """The origin of the published values, and by what they belong to this checkpoint."""
    known = known_by(found.fingerprint.checkpoint, also=" and the list's")
    return f"Published: {SOURCE}; {known}."


def _other_list(found: VqaEvaluation) -> str:
    """A sentence if the list has the name of a published one, and another number of questions; else nothing."""
    preset, rows = found.preset, found.accuracies.rows
    if preset is None or preset.rows == rows:
        return ""
    return f"{preset.name} as published has {preset.rows:,} questions; this list has {rows:,}."


def _method(found: VqaEvaluation) -> str:
    if found.accuracies.images == found.accuracies.rows:
        return "Wilson's intervals."
    return "Wilson's intervals, for as many questions as those about the same images are worth."


def _group_blocks(found: VqaEvaluation) -> list[Block]:
    preset = found.preset
    named = {name: preset.category(name) if preset else "" for name in found.groups}
    is_ours = found.published is not None and found.fingerprint.checkpoint.split("@")[0].endswith("UniPercept")
    head: Row = (one_line_name(found.group_by or ""), *_HEAD[1:])
    show_published = is_ours and any(named.values())
    rows: list[Row] = [(*head, "published") if show_published else head]
    for name, accuracies in found.groups.items():
        row = _row(one_line_name(name), accuracies, "choice")
        rows.append((*row, named[name]) if show_published else row)
    blocks: list[Block] = [rows]
    if show_published and preset and preset.fitting:
        blocks.append(ISTA_REMARK)
    return blocks


def _comparison_blocks(label: str, against: PairedComparison) -> list[Block]:
    head: Row = ("", f"right: {against.other}", f"wrong: {against.other}")
    rows: list[Row] = [
        head,
        (f"right: {label}", f"{against.both:,}", f"{against.only_first:,}"),
        (f"wrong: {label}", f"{against.only_other:,}", f"{against.neither:,}"),
    ]
    p = "both are right and wrong alike" if against.p_value is None else f"p = {p_value(against.p_value)}"
    return [rows, f"McNemar's exact test of {label} and {against.other}, by the published parser: {p}."]


def _row(title: str, found: Accuracies, column: str) -> Row:
    estimate = found.estimates[column]
    return title, _percent(estimate), _ends(estimate), f"{found.right[column]:,} of {found.rows:,}"


def _percent(estimate: Estimate) -> str:
    return "–" if estimate.value is None else f"{100 * estimate.value:.2f}"


def _ends(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return estimate.reason or ""
    return f"{100 * estimate.low:.2f} to {100 * estimate.high:.2f}"


def _matrix(evaluations: Sequence[VqaEvaluation]) -> list[Row]:
    """Accuracy by list and checkpoint, what is published in parentheses, and the mean over the domains."""
    names = list(dict.fromkeys(one.checkpoint for one in evaluations))
    cells: dict[str, dict[str, VqaEvaluation]] = {}
    for one in evaluations:
        cells.setdefault(one.data_set, {})[one.checkpoint] = one
    rows: list[Row] = [("accuracy (published)", *names)]
    for name, found in cells.items():
        rows.append((name, *(_cell(found[label]) if label in found else "" for label in names)))
    lists = [preset.name for preset in LISTS.values() if preset.name in cells]
    if len(lists) > 1:
        means = [_mean(cells, lists, label) for label in names]
        rows.append((f"mean of {len(lists)} of {len(LISTS)} domains", *means))
    return rows


def _cell(found: VqaEvaluation) -> str:
    published = "" if found.published is None else f" ({found.published:.2f})"
    return _percent(found.accuracies.published) + published


def _mean(cells: Mapping[str, Mapping[str, VqaEvaluation]], lists: Sequence[str], label: str) -> str:
    found = [cells[name][label] for name in lists if label in cells[name]]
    values = [one.accuracies.published.value for one in found]
    if len(found) < len(lists):
        return ""
    mean = f"{100 * sum(value or 0 for value in values) / len(values):.2f}"
    name = os.path.basename(found[0].fingerprint.checkpoint.split("@")[0])
    is_whole = len(lists) == len(LISTS) and all(one.published is not None for one in found)
    return mean + (f" ({PUBLISHED_MEANS[name]:.2f})" if is_whole and name in PUBLISHED_MEANS else "")


def _paper_table(evaluations: Iterable[VqaEvaluation]) -> list[Row]:
    rows: list[Row] = [("data set", "checkpoint", "N", *CHOICES.values(), "published", "difference")]
    for one in evaluations:
        ours, published = one.accuracies.published.value, one.published
        found = [f"{_percent(estimate)} ({_ends(estimate)})" for estimate in one.accuracies.estimates.values()]
        theirs = ("", "")
        if published is not None and ours is not None:
            theirs = (f"{published:.2f}", f"{100 * ours - published:+.2f}")
        rows.append((one.data_set, one.checkpoint, f"{one.accuracies.rows:,}", *found, *theirs))
    return rows


def _caption(evaluations: Sequence[VqaEvaluation]) -> str:
    said = ["Accuracies in percent."]
    for one in evaluations:
        said += [_method(one), f"{one.data_set}: sha256 {one.questions_sha256}."]
        said += [other] if (other := _other_list(one)) else []
        if one.incomplete():
            said.append(f"{one.data_set}, {one.checkpoint}: {outcome_line(one)}.")
        if one.published is not None:
            said.append(_published_line(one))
    return " ".join(dict.fromkeys(said))


def _csv_rows(found: VqaEvaluation) -> list[dict[str, Any]]:
    """A row for all questions, and one for each group."""
    about = {"data_set": found.data_set, "checkpoint": found.checkpoint, "questions_sha256": found.questions_sha256}
    groups: list[tuple[str | None, Accuracies]] = [(None, found.accuracies), *found.groups.items()]
    rows: list[dict[str, Any]] = []
    for name, accuracies in groups:
        row: dict[str, Any] = about | {
            "group_by": found.group_by if name else None,
            "group": name,
            "n": accuracies.rows,
        }
        for choice, values in accuracies_json(accuracies).items():
            ends = {"": values["value"], "_low": values["low"], "_high": values["high"], "_right": values["right"]}
            row |= {f"{choice}{end}": value for end, value in ends.items()}
        rows.append(row | {"published": found.published if name is None else None})
    return rows
