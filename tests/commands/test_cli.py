from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.command_lines import COMMANDS, commands_in, parse_command
from support.golden import golden_answers, golden_checkpoint, golden_images
from support.paths import REPO
from support.photo_library import make_photos
from support.score_job import ARTIMUSE, run_artimuse
from support.scored_stores import write_store

from artimuse_actor.protocol.protocols import get_protocol

PAGES = sorted(str(page.relative_to(REPO)) for page in [*REPO.glob("*.md"), *REPO.glob("*/*.md")])
CLUSTER = ("docker", "helm", "hf", "kubectl", "ray", "sbatch", "scancel", "squeue")  # see test_cluster_files.py
PROGRAMS = ("artimuse", "curl", "export", "git", "make", "pip", *CLUSTER)


@pytest.mark.parametrize("name", COMMANDS.commands)
def test_every_command_has_help_with_an_example_that_parses(name: str) -> None:
    shown = run_artimuse(name, "--help").stdout
    examples = commands_in(shown.partition("example:")[2])
    assert examples
    for example in examples:
        assert example.split()[1] == name
        parse_command(example)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_the_docs_parses(page: str) -> None:
    text = (REPO / page).read_text()
    for command in commands_in(text):
        parse_command(command)
    for line in re.findall(r"^\$ (.*)$", text, re.MULTILINE):
        assert line.split()[0].removeprefix(".venv/bin/") in PROGRAMS, line
    for target in re.findall(r"^\$ make (\w+)|`make (\w+)`", text, re.MULTILINE):
        assert f"\n{''.join(target)}:" in (REPO / "Makefile").read_text(), page
    for script in re.findall(r"python ((?:bench|docs|tests)/[\w/]+\.py)", text):
        assert (REPO / script).exists(), f"{page}: {script}"


@pytest.mark.process
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(("redirected", "code", "says"), [
    (">&-", 0, ""), ("2>&-", 0, ""), ("> /dev/full", 1, "A disk is full: that of what it prints, or"),
    ("--json > /dev/full", 1, "A disk is full: that of what it prints, or"),
])  # fmt: skip
def test_a_screen_that_is_closed_or_full_is_no_surprise(tmp_path: Path, redirected: str, code: int, says: str) -> None:
    write_store(tmp_path / "scored", [{"image_id": "a.jpg"}])
    command = f"{shlex.join([*ARTIMUSE, 'status', str(tmp_path / 'scored')])} {redirected}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode, says in done.stderr) == (code, True)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_commands_are_taught_on_many_pages() -> None:
    taught = [page for page in PAGES if commands_in((REPO / page).read_text())]
    assert len(taught) >= 11
    assert "README.md" in taught


@pytest.mark.parametrize("page", PAGES)
def test_every_python_example_compiles_and_its_imports_are_there(page: str) -> None:
    for block in re.findall(r"^```python\n(.*?)^```", (REPO / page).read_text(), re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), f"{page}: {node.module}"
            elif isinstance(node, ast.Import):
                assert all(importlib.util.find_spec(alias.name) for alias in node.names), page


def test_every_link_in_the_docs_leads_somewhere() -> None:
    astray = []
    for page in PAGES:
        text = (REPO / page).read_text()
        for target in re.findall(r"\]\((?!https?://)([^)]+)\)|<img src=\"([^\"]+)\"", text):
            name, _, anchor = "".join(target).partition("#")
            path = (REPO / page).parent / name if name else REPO / page
            if not path.exists() or (anchor and anchor not in _anchors(path.read_text())):
                astray.append(f"{page}: {''.join(target)}")
    assert not astray


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.process
def test_the_reference_is_what_help_says() -> None:
    made = runpy.run_path(str(REPO / "docs" / "cli.py"))["reference"]()
    assert (REPO / "docs" / "cli.md").read_text() == made, "run `make docs`"


def test_the_table_of_folders_is_the_tree() -> None:
    made = runpy.run_path(str(REPO / "docs" / "layout.py"))["page"]()
    assert (REPO / "CONTRIBUTING.md").read_text() == made, "run `make docs`"


def test_every_direct_dependency_is_pinned() -> None:
    import tomllib

    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]
    pinned = {line.split("==")[0] for line in (REPO / "constraints.txt").read_text().splitlines() if "==" in line}
    assert {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted} <= pinned


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("score photos --out o --checkpont x", "--checkpoint"),
        ("scor photos --out o", "score"),
        ("score photos", "--out"),
        ("score photos --out o --batch-size many", "--batch-size takes a whole number from 1 or auto"),
        ("score photos --out o --decode quick", "--decode takes exact or fast"),
        ("score photos --out o --actors 0", "--actors takes a whole number from 1"),
        ("score photos --out o --unit-size 100000", "--unit-size takes a whole number from 1 to 200"),
        ("image a.jpg --checkpoint . --device tpu", "--device takes auto, cpu, cuda, cuda:N or mps"),
    ],
)
def test_wrong_usage_says_what_is_right(line: str, sentence: str) -> None:
    done = run_artimuse(*line.split(), code=2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_no_command_at_all_shows_the_help() -> None:
    assert "artimuse demo" in run_artimuse(code=2).stdout + run_artimuse(code=2).stderr


@pytest.mark.process
def test_a_traceback_is_shown_to_those_who_ask(tmp_path: Path) -> None:
    command = [*ARTIMUSE, "--debug", "status", str(tmp_path)]
    assert "Traceback" in subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stderr
    assert run_artimuse("status", tmp_path, code=1).stderr.startswith("StoreError: ")


@pytest.mark.process
def test_a_missing_package_is_named(tmp_path: Path) -> None:
    program = "import sys; sys.modules['duckdb'] = None; from jobs.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "status", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 1
    assert (
        found.stderr
        == f"{sys.executable} has no module duckdb. Install artimuse-batch there again: pip brings what it needs.\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "batch_size"), [("artimuse", 3), ("artimuse", 8), ("unipercept", 1)])
def test_image_scores_files_like_the_published_code(protocol: str, batch_size: int, tmp_path: Path) -> None:
    broken = tmp_path / "text.jpg"
    broken.write_text("no picture")
    options: list[str | Path] = [
        "--checkpoint",
        golden_checkpoint(protocol),
        "--protocol",
        protocol,
        "--batch-size",
        str(batch_size),
    ]
    results = json.loads(run_artimuse("image", *golden_images(), broken, *options, "--json", code=1).stdout)
    assert results.pop()["error_type"] == "not_an_image"
    for result, answer in zip(results, golden_answers(protocol), strict=True):
        assert Path(result["image"]).name == answer["image"]
        for question in get_protocol(protocol).score_questions:
            assert result[question] == pytest.approx(answer["scores"][question]["score"], abs=1e-3)


def test_manifest_writes_what_score_reads(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 3)
    screen = run_artimuse("manifest", tmp_path / "photos", "--out", tmp_path / "m.parquet").stdout
    assert "3 images. Next: artimuse score" in screen


@pytest.mark.process
def test_the_program_runs_from_anywhere(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "artimuse"
    done = subprocess.run(
        [program, "status", "nowhere"], capture_output=True, text=True, cwd=tmp_path, env={**os.environ}, check=False
    )
    assert done.returncode == 1
    assert "is no store of scores" in done.stderr
    assert not (tmp_path / "nowhere").exists()


def test_the_limits_in_help_are_those_of_the_decoder() -> None:
    from artimuse_actor import DecodeOptions
    from artimuse_actor.fetch.options import FetchOptions
    from jobs.commands.options import DECODER_MEMORY_BYTES, DECODER_TIMEOUT_S, MAX_BYTES, MAX_PIXELS

    options = DecodeOptions()
    assert (options.max_bytes, options.max_pixels) == (MAX_BYTES, MAX_PIXELS)
    assert (options.decoder_timeout_s, options.decoder_memory_bytes) == (DECODER_TIMEOUT_S, DECODER_MEMORY_BYTES)
    assert FetchOptions().max_bytes == MAX_BYTES


@pytest.mark.process
def test_names_that_are_no_text_are_printed_all_the_same(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.jpg"
    with open(name, "wb") as file:
        file.write(golden_images()[0].read_bytes())
    command: list[Any] = [sys.executable, "-m", "jobs", "image", name, "--checkpoint", golden_checkpoint("artimuse")]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=strict, check=True)
    assert "caf\\udce9.jpg: score " in done.stdout


def test_root_and_private_hosts_confine_what_is_read(tmp_path: Path) -> None:
    inside, outside = tmp_path / "root" / "a.jpg", tmp_path / "b.jpg"
    inside.parent.mkdir()
    for path in (inside, outside):
        path.write_bytes(golden_images()[0].read_bytes())
    (tmp_path / "root" / "link.jpg").symlink_to(outside)
    uris = (
        inside,
        outside,
        tmp_path / "root" / ".." / "b.jpg",
        tmp_path / "root" / "link.jpg",
        "http://127.0.0.1:9/x.jpg",
    )
    options = ("--checkpoint", golden_checkpoint("artimuse"), "--json")
    confined = json.loads(run_artimuse("image", *uris, *options, "--root", tmp_path / "root", code=1).stdout)
    assert [row.get("error_type") for row in confined] == [None, *["outside_root"] * 4]
    free = json.loads(run_artimuse("image", *uris, *options, code=1).stdout)
    assert [row.get("error_type") for row in free] == [None, None, None, None, "forbidden_host"]
