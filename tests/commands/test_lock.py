"""requirements.lock, in step with pyproject.toml and constraints.txt."""

from __future__ import annotations

import re
import tomllib

from support.paths import REPO


def _name(requirement: str) -> str:
    """The normal name of a package (PEP 503)."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def _versions(lines: list[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in lines:
        if match := re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^ ;\\]+)", line):
            found.setdefault(_name(match.group(1)), set()).add(match.group(2))
    return found


def test_the_lock_has_every_dependency_but_torch_in_the_version_of_the_constraints() -> None:
    locked = _versions((REPO / "requirements.lock").read_text().splitlines())
    pinned = _versions((REPO / "constraints.txt").read_text().splitlines())
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    asked = {_name(line) for line in (*project["dependencies"], *project["optional-dependencies"]["cluster"])}
    assert asked - locked.keys() == {"torch"}
    both = locked.keys() & pinned.keys()
    assert {name: locked[name] for name in both} == {name: pinned[name] for name in both}


def test_every_package_of_the_lock_has_hashes_and_nothing_is_fetched_from_elsewhere() -> None:
    text = (REPO / "requirements.lock").read_text()
    entries = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    assert len(entries) > 50
    for entry in entries:
        head, *hashes = entry.split("\\\n")
        assert "==" in head
        assert "://" not in entry
        assert hashes
        assert all(re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}\s*", line) for line in hashes), head
