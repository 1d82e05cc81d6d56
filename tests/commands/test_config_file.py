"""`artimuse.toml`: what it sets, what overrides what, and what it refuses."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from support.command_lines import COMMANDS
from support.golden import golden_checkpoint
from support.paths import REPO
from support.photo_library import make_photos
from support.score_job import run_artimuse, table_rows

from jobs.commands.config_file import configurable, key_of, load

pytestmark = pytest.mark.timeout(120)

SAMPLES: dict[type, Any] = {int: 3, float: 1.5, bool: True, list[str]: ["a", "b"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.process
def test_score_alone_does_the_night_and_the_command_line_overrides_the_profile_and_the_file(folder: Path) -> None:
    names = make_photos(folder / "photos", 4)
    checkpoint = golden_checkpoint("artimuse")
    (folder / "artimuse.toml").write_text(
        f"\ufeff[score]\nsource = 'photos'\nout = 'scored'\ncheckpoint = '{checkpoint}'\nlocal = true\nbatch-size = 2\n"
        "limit = 3\nquiet = 1\nuntil = '07:00'\n[profile.all.score]\nlimit = 1_000\n[status]\nstores = ['scored']\n"
    )
    done = run_artimuse("score", "--limit", "1")
    assert (done.stdout, done.stderr) == ("scored: 1 new; 1 rows = 1 ok + 0 failed.\n", "")
    assert run_artimuse("score").stdout.startswith("scored: 2 new; 3 rows")
    assert run_artimuse("--profile", "all", "score").stdout.startswith("scored: 1 new; 4 rows")
    assert sorted(table_rows("scored")) == names
    runs = json.loads(run_artimuse("status", "--json").stdout)["runs"]
    assert [run["arguments"]["limit"] for run in runs] == [1, 3, 1000]

    shown = run_artimuse("--profile", "all", "config").stdout
    assert 'batch-size = "2"  ' in shown
    assert "limit = 1000 " in shown
    origins = {line.partition(" = ")[0]: line.partition("  # ")[2].strip() for line in shown.splitlines()}
    assert (origins["limit"], origins["local"]) == ("artimuse.toml, profile all", "artimuse.toml")
    assert "device = " not in shown
    everything = json.loads(run_artimuse("config", "score", "--json").stdout)["score"]
    assert everything["device"] == {"value": "auto", "from": "default"}
    assert len(everything) == len(configurable(COMMANDS.commands["score"]))


def test_every_option_of_every_command_can_be_set(folder: Path) -> None:
    lines, commands = [], {name: command for name, command in COMMANDS.commands.items() if name != "config"}
    for name, command in commands.items():
        keys = [key_of(parameter) for parameter in configurable(command)]
        assert len(set(keys)) == len(keys), name
        lines += [f"[{name}]", *(f"{key_of(one)} = {json.dumps(_sample(one))}" for one in configurable(command))]
    (folder / "all.toml").write_text("\n".join(lines))
    configuration = load("all.toml", None, COMMANDS.commands)
    group = COMMANDS.make_context("artimuse", ["demo"], resilient_parsing=True)
    group.default_map = configuration.default_map()
    for name, command in commands.items():
        context = command.make_context(name, [], parent=group)  # nothing that is required is missing
        for parameter in configurable(command):
            value = context.params[parameter.name]
            assert (str(value) if isinstance(value, Path) else value) == _sample(parameter), (name, parameter.name)
    # What `config` prints is a configuration file.
    shown = run_artimuse("--config", "all.toml", "config").stdout
    assert tomllib.loads(shown) == tomllib.loads((folder / "all.toml").read_text())


def _sample(parameter: Any) -> Any:
    return SAMPLES.get(parameter.type_descriptor.annotation, "5%")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[score]\ncheckpont = 'x'", "artimuse.toml, [score]: there is no option 'checkpont'. There is checkpoint."),
        ("[score]\nbatch_size = 4", "There is batch-size"),
        ("[scor]\nout = 'x'", "artimuse.toml: there is no command scor. There is score"),
        ("out = 'x'", "artimuse.toml: there is no command out."),
        ("score = 'x'", "artimuse.toml: score is no table. Write [score] above its options."),
        ("[profile.a.score]\nout = 'x'\n[profile.b.curate]\ntopp = 1", "[profile.b.curate]: there is no option 'topp'"),
        ("[profile]\na = 1", "profile.a is no table"),
        ("profile = 1", "profile is no table"),
        ("[score]\nlimit = 'many'", "[score]: limit: Input should be a valid integer"),
        ("[score]\nlimit = true", "[score]: limit takes text or a number, not true."),
        ("[score]\ntexts = 'yes'", "[score]: texts is true or false, not 'yes'."),
        ("[score]\nout = ['a']", "[score]: out takes one value"),
        ("[score]\nuntil = 07:00:00", "[score]: until takes one value; write text in quotes."),
        ("[score]\nquestions = true", "there is no option 'questions'"),
        ("[score", "artimuse.toml: cannot be read as TOML: Expected ']'"),
    ],
)
def test_what_a_file_may_not_say(folder: Path, text: str, sentence: str) -> None:
    (folder / "artimuse.toml").write_text(text)
    done = run_artimuse("status", "nowhere", code=2)  # whichever command runs
    assert sentence in done.stderr
    assert not done.stdout


def test_errors_of_values_name_the_file_and_of_the_command_line_do_not(folder: Path) -> None:
    (folder / "artimuse.toml").write_text("[profile.odd.score]\nbatch-size = 'many'\n")
    options = ("--profile", "odd", "score", "photos", "--out", "out")
    many = "--batch-size takes a whole number from 1 or auto, not 'many'."
    assert f"{many} It is set in artimuse.toml, profile odd, [score].\n" in run_artimuse(*options, code=2).stderr
    done = run_artimuse("score", "photos", "--out", "out", "--batch-size", "many", code=2)
    assert done.stderr == f"UsageError: {many}\n"


def test_files_and_profiles_that_are_not_there(folder: Path) -> None:
    assert "no.toml: cannot be read as TOML: No such file" in run_artimuse("--config", "no.toml", "demo", code=2).stderr
    done = run_artimuse("--profile", "quick", "demo", code=2)
    assert "--profile quick: there is no artimuse.toml in this folder." in done.stderr
    (folder / "artimuse.toml").write_text("[profile.quick.score]\nlimit = 10\n")
    assert "artimuse.toml has quick." in run_artimuse("--profile", "quik", "demo", code=2).stderr
    (folder / "artimuse.toml").unlink()
    assert "every option has its default" in run_artimuse("config").stdout
    assert "There is no command 'scor'" in run_artimuse("config", "scor", code=2).stderr


def test_the_file_on_the_page_about_nights_is_one(folder: Path) -> None:
    page = (REPO / "docs" / "nightly.md").read_text()
    (folder / "artimuse.toml").write_text(page.partition("```toml\n")[2].partition("```")[0])
    night = load(None, None, COMMANDS.commands).default_map()["score"]
    assert set(night) >= {"source", "out", "max_time", "quiet"}
    assert load(None, "quick", COMMANDS.commands).default_map()["score"]["limit"] == 100
