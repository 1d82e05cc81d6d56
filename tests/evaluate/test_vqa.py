"""Multiple-choice questions from images to accuracies: `artimuse benchmark vqa`."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from support.golden import golden_checkpoint, golden_images
from support.score_job import run_artimuse, run_job
from support.tiny_checkpoints import change_tensors, copy_checkpoint

from artimuse_actor.checkpoint.checkpoint import SINGLE_FILE
from artimuse_actor.engine.model import VisionLanguageModel
from artimuse_actor.errors import ManifestError
from artimuse_actor.protocol.prompts import turn_end_id
from artimuse_actor.protocol.tokenizer import load_tokenizer
from jobs.evaluate.vqa.accuracy import compare, measure
from jobs.evaluate.vqa.parsers import lenient_choice, likeliest_choice, published_choice
from jobs.evaluate.vqa.presets import LISTS, PUBLISHED_MEANS, QuestionList
from jobs.manifest.questions import read_questions
from schemas.answers import answers_schema

PICTURES = 4
GONE, BROKEN = "gone.jpg", "broken.jpg"


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Golden checkpoints under the published names, more eager to stop, so that replies are short."""
    folder = tmp_path_factory.mktemp("checkpoints")
    made = [copy_checkpoint(folder / name, name.lower()) for name in ("UniPercept", "ArtiMuse")]
    for checkpoint in made:
        head = load_file(checkpoint / SINGLE_FILE)["language_model.lm_head.weight"]
        head[turn_end_id(load_tokenizer(checkpoint))] *= 3
        change_tensors(checkpoint, language_model__lm_head__weight=head)
    return made[0], made[1]


def make_list(root: Path, domain: str, entries: int) -> list[dict[str, Any]]:
    """A list in the published layout, its images named from the root; one is gone, one broken, one entry twice."""
    folder = root / "benchmark" / "VQA" / domain
    (folder / "images").mkdir(parents=True)
    names = [path.name for path in golden_images()[:PICTURES]]
    for path in golden_images()[:PICTURES]:
        shutil.copy(path, folder / "images")
    (folder / "images" / BROKEN).write_bytes(b"\xff\xd8\xff\xe0 no picture")
    of_entry = [GONE, BROKEN, *(names[number % PICTURES] for number in range(2, entries))]
    found = [
        {
            "id": number,
            "image": f"benchmark/VQA/{domain}/images/{name}",
            "question": f"Question {number}?\nA. one\nB. two\nC. three\nD. four",
            "answer": " abcd"[1 + number % 4] + "\n",
            "category": ["Scene", "geometric", None][number % 3],
        }
        for number, name in enumerate(of_entry)
    ]
    found.append({**found[-1], "id": entries})
    (folder / f"UniPercept-Bench-{domain}.json").write_text(json.dumps(found))
    return found


def answers(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out).to_pylist()
    return rows


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(240)
def test_lists_in_the_published_layout_are_answered_counted_and_compared(
    tmp_path: Path, checkpoints: tuple[Path, Path]
) -> None:
    unipercept, artimuse = checkpoints
    lists = {"IAA": make_list(tmp_path, "IAA", 8), "ISTA": make_list(tmp_path, "ISTA", 4)}
    out = tmp_path / "out"
    command = ("benchmark", "vqa", "--root", tmp_path, "--out", out, "--device", "cpu")
    both = ("--checkpoint", unipercept, "--checkpoint", artimuse)
    options = ("--against", artimuse, "--by", "category", "--results", tmp_path / "results")
    done = run_artimuse(*command, *both, *options)
    assert done.stdout.count("7 of 9 questions answered; 2 failed (1 missing, 1 truncated)") == 2, done.stdout
    assert "1 of 9 entries ask a question again; it is asked once." in done.stderr
    assert "VQA-IQA is absent: VQA-IQA is not below" in done.stdout
    assert "VQA-IAA as published has 1,015 questions; this list has 9." in done.stdout
    assert "mean of 2 of 3 domains" in done.stdout

    for domain, entries in lists.items():
        rows = answers(out / "UniPercept" / f"VQA-{domain}" / "answers")
        assert [row["image_id"] for row in rows] == [entry["image"] for entry in entries]
        assert [json.loads(row["fields"]) for row in rows] == [
            {"id": entry["id"], "category": entry["category"]} for entry in entries
        ]
        assert [row["error_type"] for row in rows] == ["missing", "truncated", *[None] * (len(rows) - 2)]
        assert rows[-1]["reply"] == rows[-2]["reply"]
        for row, entry in zip(rows, entries, strict=True):
            letter = entry["answer"].strip().upper()
            assert row["is_right"] is ((row["reply"] or "").strip().upper()[:1] == letter)
            assert row["choice"] == (None if row["reply"] is None else row["reply"].strip().upper()[:1])
        published = json.loads((tmp_path / "results" / f"VQA-{domain}_UniPercept.json").read_text())
        wanted = [entry | {"answer_UniPercept": row["choice"] or "?"} for entry, row in zip(entries, rows, strict=True)]
        assert [{**entry, "answer_UniPercept": entry["answer_UniPercept"] or "?"} for entry in published] == wanted

    again = run_artimuse(*command, *both, "--json", "--gate", "n>=9", "--require-complete", code=1)
    assert again.stderr.count("Nothing to do: all 8 questions are in") == 2
    assert "VQA-IAA, UniPercept: --require-complete is missed: 7 of 9 questions answered" in again.stderr
    assert "VQA-ISTA, ArtiMuse: n>=9 is missed: it is 5." in again.stderr
    shown = json.loads(again.stdout)
    assert [cell.get("data_set", cell.get("cell")) for cell in shown] == [
        *("VQA-IAA", "VQA-IAA", "VQA-ISTA", "VQA-ISTA"), "VQA-IQA",
    ]  # fmt: skip
    assert shown[0]["published"] is None  # of the whole list only
    right = sum(row["is_right"] for row in answers(out / "UniPercept" / "VQA-IAA" / "answers"))
    assert shown[0]["accuracies"]["published_parser"]["right"] == right
    for form in ("--markdown", "--latex"):
        assert "VQA-ISTA as published has 970 questions; this list has 5." in run_artimuse(*command, *both, form).stdout
    assert run_artimuse(*command, *both, "--csv").stdout.count('"VQA-ISTA"') == 2

    store = out / "UniPercept" / "VQA-IAA"
    assert "8 rows planned = 6 ok + 2 failed" in run_artimuse("status", store).stdout
    refused = run_artimuse("evaluate", store, "--ground-truth", tmp_path / "none.csv", code=2).stderr
    assert "has answers to multiple-choice questions, and no scores" in refused
    assert "holds scores of UniPercept@" in run_artimuse(
        "score", golden_images()[0], "--out", store, "--checkpoint", golden_checkpoint("artimuse"), code=1
    ).stderr  # fmt: skip


@pytest.mark.process
def test_an_image_is_encoded_once_for_all_its_questions(
    tmp_path: Path, checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = make_list(tmp_path, "IAA", 14)
    encoded: list[int] = []
    encode = VisionLanguageModel.encode_images

    def counted(model: VisionLanguageModel, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixels))
        return encode(model, pixels)

    monkeypatch.setattr(VisionLanguageModel, "encode_images", counted)
    options = ("--root", tmp_path, "--out", tmp_path / "out", "--checkpoint", checkpoints[0], "--device", "cpu")
    screen = run_artimuse("benchmark", "vqa", *options).stdout
    assert f"{len(entries) - 2} of {len(entries)} questions answered" in screen
    assert sum(encoded) == PICTURES < len(entries) - 3
    monkeypatch.setitem(
        cast("dict[str, QuestionList]", LISTS), "IAA", replace(LISTS["IAA"], rows=len(entries))
    )  # what is published is for all of them
    by_name = "Published: UniPercept, arXiv 2512.21675; by the checkpoint's name and the list's only, since no paper"
    assert by_name in run_artimuse("benchmark", "vqa", *options).stdout
    assert by_name in run_artimuse("benchmark", "vqa", *options, "--latex").stdout
    shown = json.loads(run_artimuse("benchmark", "vqa", *options, "--json").stdout)[0]["published"]
    assert (shown["accuracy"], shown["matched_by"], shown["revision"]) == (0.7655, "name", None)


@pytest.mark.ray
def test_replies_on_ray_are_those_of_one_process(tmp_path: Path, checkpoints: tuple[Path, Path]) -> None:
    make_list(tmp_path, "IQA", 5)
    options = ("--root", tmp_path, "--checkpoint", checkpoints[0], "--device", "cpu")
    run_artimuse("benchmark", "vqa", *options, "--out", tmp_path / "here")
    run_job("benchmark", "vqa", *options, "--out", tmp_path / "ray")
    here, ray = (answers(tmp_path / out / "UniPercept" / "VQA-IQA" / "answers") for out in ("here", "ray"))
    for one, other in zip(here, ray, strict=True):
        likely = [(row.pop("p_a"), row.pop("p_b"), row.pop("p_c"), row.pop("p_d")) for row in (one, other)]
        assert one == other
        assert likely[0] == (pytest.approx(likely[1], rel=1e-3) if one["status"] == "ok" else likely[1])


@pytest.mark.process
@pytest.mark.timeout(240)
def test_of_a_longer_list_in_another_order_only_new_questions_are_asked(
    tmp_path: Path, checkpoints: tuple[Path, Path]
) -> None:
    names = [golden_images()[number % 2].name for number in range(6)]
    entries = [{"image": name, "question": f"Which? {number}", "answer": "A"} for number, name in enumerate(names)]
    own, out = tmp_path / "mine.json", tmp_path / "out"
    command = (
        "benchmark",
        "vqa",
        "--root",
        own,
        "--images",
        golden_images()[0].parent,
        "--device",
        "cpu",
        "--out",
        out,
    )
    own.write_text(json.dumps(entries[:3]))
    run_artimuse(*command, "--checkpoint", checkpoints[0])
    own.write_text(json.dumps(entries[::-1]))
    done = run_artimuse(*command, "--checkpoint", checkpoints[0], "--limit", "5")
    assert "5 of 5 questions answered; about 2 images" in done.stdout
    rows = answers(out / "UniPercept" / "mine" / "answers")
    assert [row["question"] for row in rows] == [entry["question"] for entry in entries[:0:-1]]
    runs = pq.read_table(out / "UniPercept" / "mine" / "scores")["run_id"].to_pylist()
    assert sorted(runs.count(run) for run in set(runs)) == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("vqa-art",), "There is no benchmark 'vqa-art'. There are vqa, vqa-IAA, vqa-IQA, vqa-ISTA."),
        (("vqa", "AVA"), "vqa is no benchmark of scores: give its lists in a command of their own."),
        (("vqa", "--protocol", "unipercept"), "--protocol is about scores; vqa asks for letters"),
        (("vqa-iqa",), "VQA-IQA is not below"),
        (("vqa", "--by", "kind"), "--by: the entries of .* have no field 'kind' \\(but id, image, question,"),
        (("vqa", "--images", "elsewhere"), "none of its first 4 images, such as benchmark/VQA/IAA/images/gone"),
        (("AVA", "--images", "elsewhere"), "--images goes with vqa"),
    ],
)  # fmt: skip
def test_arguments_that_mean_nothing_are_refused_before_anything_starts(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    make_list(tmp_path, "IAA", 4)
    options = ("--root", tmp_path, "--out", tmp_path / "out", "--checkpoint", golden_checkpoint("unipercept"))
    refused = run_artimuse("benchmark", *arguments, *options, code=2).stderr
    assert re.search(message, refused), refused
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "is not a list of"),
        ("[]", "has no questions"),
        ("[1]", "entry 0: has no `image` that is a text"),
        ('[{"image": "a.jpg", "question": " ", "answer": "A"}]', "entry 0: has no `question` that is a text"),
        ('[{"image": "a.jpg", "question": "?", "answer": "AB"}]', "entry 0: `answer` is 'AB'; it must be the letter"),
        ('[{"image": "a.jpg", "question": "?<image>", "answer": "A"}]', "the question contains <image>, which"),
        ('[{"image": "a", "question": "<|im_end|>", "answer": "A"}]', "the question contains <|im_end|>"),
        ('[{"image": "a", "question": "\\ud800", "answer": "A"}]', "has no `question` that is a text"),
    ],
)  # fmt: skip
def test_a_list_that_is_not_in_order_is_refused_with_the_entry(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(ManifestError, match=re.escape(message)):
        read_questions(str(tmp_path / "list.json"))


@pytest.mark.parametrize(
    ("reply", "published", "lenient"),
    [
        ("B", "B", "B"),
        (" b.\n", "B", "B"),
        ("(C)", "(", "C"),
        ("**D**", "*", "D"),
        ("A", "A", "A"),
        ("A: the sky", "A", "A"),
        ("B. The light", "B", "B"),
        ("The answer is B", "T", "B"),
        ("Answer: D", "A", "D"),  # right if the answer is A
        ("The correct option is (C), not A.", "T", "C"),
        ("answer is A because of the light", "A", "A"),
        ("A dog sits in front of it", "A", None),
        ("It is B or C", "I", None),
        ("", "", None),
        ("\\boxed{B}", "\\", "B"),
        ("none", "N", None),
    ],
)
def test_parsers(reply: str, published: str, lenient: str | None) -> None:
    assert published_choice(reply) == published
    assert lenient_choice(reply, "ABCD") == lenient


def test_of_equally_likely_letters_the_first_is_taken() -> None:
    assert likeliest_choice({"A": 0.1, "B": 0.4, "C": 0.4, "D": 0.0}) == "B"


def test_published_accuracies_are_those_of_whole_numbers_of_questions() -> None:
    right = {"IAA": 777, "IQA": 882, "ISTA": 817}
    for domain, questions in LISTS.items():
        assert f"{100 * right[domain] / questions.rows:.2f}" == f"{questions.published['UniPercept']:.2f}"
        printed = [(accuracy, rows) for accuracy, rows in questions.categories.values() if rows]
        categories = list(questions.fitting.values()) or printed
        assert sum(rows for _, rows in categories) == questions.rows
        whole = [round(accuracy * rows / 100) for accuracy, rows in categories]
        assert sum(whole) == right[domain]
        for number, (accuracy, rows) in zip(whole, categories, strict=True):
            assert f"{100 * number / rows:.2f}" == f"{accuracy:.2f}"
    assert LISTS["ISTA"].category("scene") == "89.74 as printed; 93.94 of 33 fits"
    mean = sum(questions.published["UniPercept"] for questions in LISTS.values()) / len(LISTS)
    assert f"{mean:.2f}" == f"{PUBLISHED_MEANS['UniPercept']:.2f}"


def replies_table(choices: str, images: str = "") -> pa.Table:
    rows = [
        {
            **{"entry": number, "image_id": image, "question_id": str(number), "question": "?", "answer": "A"},
            **{"fields": "{}", "status": "ok", "choice": choice, "is_right": choice == "A"},
        }
        for number, (choice, image) in enumerate(zip(choices, images or map(str, range(len(choices))), strict=False))
    ]
    return pa.Table.from_pylist(rows, schema=answers_schema(("A", "B", "C", "D")))


def test_intervals_are_wilsons_and_wider_where_images_share_questions() -> None:
    alone = measure(replies_table("AAAAAAAABB"), 0).published
    wilson = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert (alone.value, alone.low, alone.high) == pytest.approx((0.8, wilson.low, wilson.high))
    shared = measure(replies_table("AAAAAAAABB", "aabbccddee"), 0).published
    assert shared.value == alone.value
    assert (shared.low or 0) < (alone.low or 0)


def test_two_sets_of_replies_are_compared_by_mcnemars_exact_test() -> None:
    found = compare(replies_table("AAAAAAAABB"), replies_table("BBBBBBABBA"), "other")
    assert (found.both, found.only_first, found.only_other, found.neither) == (1, 7, 1, 1)
    assert found.p_value == pytest.approx(2 * (1 + 8) / 2**8)
    assert compare(replies_table("AB"), replies_table("AB"), "other").p_value is None
