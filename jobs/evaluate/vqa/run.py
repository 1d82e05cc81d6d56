"""`artimuse benchmark vqa`: multiple-choice questions, from images to accuracies, for several checkpoints at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from artimuse_actor.errors import ArtiMuseError, UsageError
from artimuse_actor.protocol.multiple_choice import MAX_REPLY_TOKENS, MULTIPLE_CHOICE
from jobs.evaluate.benchmark_settings import BenchmarkSettings
from jobs.evaluate.cells import Cell, cells_of, noted, work_off
from jobs.evaluate.vqa.accuracy import base_rate, by_groups, compare, measure
from jobs.evaluate.vqa.answers import answers_table, write_answers
from jobs.evaluate.vqa.evaluation import VqaEvaluation
from jobs.evaluate.vqa.folders import QuestionFolder, asked_domains, find_list, open_list
from jobs.evaluate.vqa.presets import LISTS, VQA
from jobs.manifest.questions import questions_digest
from jobs.storage.user_files import write_user_file
from jobs.store.store import Store
from jobs.store.text_request import WantedTexts
from jobs.words import show

if TYPE_CHECKING:
    from jobs.score.run import Machines


VqaCell = Cell[QuestionFolder]


@dataclass(frozen=True)
class VqaResults:
    """The matrix of results.

    Attributes:
        evaluations: of the cells that have one, list after list.
        absent: lists that `vqa` did not find, each with a sentence.
        failed: cells that failed, each with the reason.
    """

    evaluations: list[VqaEvaluation]
    absent: Mapping[str, str]
    failed: Mapping[str, str]


def run_vqa(settings: BenchmarkSettings) -> VqaResults:
    """Ask each checkpoint the questions of each list, a checkpoint after the other, and count what is right.

    Everything is checked before anything starts; see `run_benchmarks`.

    Raises:
        UsageError: something is wrong with an argument; the message names all that is.
    """
    folders, cells, absent = _check(settings)
    failed: dict[str, str] = {}
    work_off(cells, settings.address, failed, partial(_ask, settings))
    found: dict[str, VqaEvaluation] = {}
    for folder in folders:
        for cell in cells:
            if cell.folder is folder and str(cell) not in failed:
                with noted(cell, failed):
                    found[str(cell)] = _evaluate(settings, cell)
    for cell in cells:
        base = cell.base(cells, settings.against)
        if base and str(cell) in found and str(base) in found:
            ours, theirs = found[str(cell)], found[str(base)]
            found[str(cell)] = replace(ours, against=compare(ours.table, theirs.table, base.label))
    return VqaResults(list(found.values()), absent, failed)


def _check(settings: BenchmarkSettings) -> tuple[list[QuestionFolder], list[VqaCell], dict[str, str]]:
    """Look at every argument: the lists, all cells in the order of work, and what `vqa` did not find."""
    problems: list[str] = []
    folders, absent = _folders(settings, problems)
    if not folders and not problems:
        problems += absent.values()
    if field := settings.evaluate.columns.group:
        for folder in folders:
            names = list(dict.fromkeys(name for one in folder.questions for name in one.entry))
            if field not in names:
                problems.append(
                    f"--by: the entries of {folder.source} have no field {field!r} (but {', '.join(names)})."
                )
    return folders, cells_of(settings, folders, problems), absent


def _folders(settings: BenchmarkSettings, problems: list[str]) -> tuple[list[QuestionFolder], dict[str, str]]:
    """The lists that are asked for, and those that `vqa` did not find."""
    root, absent = settings.root, dict[str, str]()
    sources: list[str] = []
    if root.lower().endswith(".json"):
        sources, below = [root], None
    else:
        below = root
        for name in settings.names:
            try:
                domains = asked_domains(name)
            except UsageError as error:
                problems.append(str(error))
                continue
            for domain in domains:
                if source := find_list(root, domain):
                    sources.append(source)
                    continue
                preset = LISTS[domain]
                sentence = (
                    f"{preset.name} is not below {root}: there is no benchmark/VQA/{domain}/{preset.file}, nor is it "
                    "in the folders below. Name the folder above with --root, or the list itself."
                )
                if name.lower() == VQA:
                    absent[preset.name] = sentence
                else:
                    problems.append(sentence)
    folders: list[QuestionFolder] = []
    for source in dict.fromkeys(sources):
        try:
            folders.append(open_list(source, below, settings.images, settings.limit))
        except ArtiMuseError as error:
            problems.append(str(error))
    return folders, absent


def _ask(settings: BenchmarkSettings, cell: VqaCell, shared: Machines) -> None:
    from jobs.score.run import score

    scoring = settings.scoring(cell.folder.source, cell.folder.images, cell.checkpoint, cell.out)
    scoring = replace(
        scoring,
        protocol=MULTIPLE_CHOICE,
        texts=WantedTexts(max_new_tokens=MAX_REPLY_TOKENS),
        manifest=replace(scoring.manifest, as_questions=True),
    )
    result = score(scoring, settings.arguments(scoring), shared)
    for note in result.notes:
        show(note, file=sys.stderr)
    if result.was_finished:
        show(
            f"Nothing to do: all {result.record.manifest_rows:,} questions are in {cell.out} already.", file=sys.stderr
        )


def _evaluate(settings: BenchmarkSettings, cell: VqaCell) -> VqaEvaluation:
    """The evaluation of a cell; its answers table is written into the store."""
    folder, store, seed = cell.folder, Store.open(cell.out), settings.evaluate.seed
    table = answers_table(folder.questions, store)
    write_answers(table, store, folder.name)
    field = settings.evaluate.columns.group
    if settings.results:
        _write_results(folder, table["choice"].to_pylist(), cell.label, settings.results)
    return VqaEvaluation(
        data_set=folder.name,
        questions=folder.source,
        questions_sha256=questions_digest(folder.questions),
        preset=folder.preset,
        out=cell.out,
        checkpoint=cell.label,
        fingerprint=store.fingerprint,
        table=table,
        accuracies=measure(table, seed),
        base_rate=base_rate(table),
        group_by=field,
        groups=by_groups(table, field, seed) if field else {},
    )


def _write_results(folder: QuestionFolder, choices: Sequence[str | None], label: str, results: str) -> None:
    """Write the list with the choices, as the published script does; a question without a reply has `?`.

    Source: UniPercept, `eval_vqa.py` at 34660ff.
    """
    entries = [
        {**one.entry, f"answer_{label}": "?" if choice is None else choice}
        for one, choice in zip(folder.questions, choices, strict=True)
    ]
    path = f"{results.rstrip('/')}/{folder.name}_{label}.json"
    with write_user_file(path) as growing, open(growing, "w", encoding="utf-8") as file:
        json.dump(entries, file, indent=2, ensure_ascii=False)
