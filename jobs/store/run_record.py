"""The record of a run, which stays in the store as `run.json`."""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from artimuse_actor.uris import without_secrets
from jobs.code_identity import CODE_VERSION, package_version, this_code, this_commit
from jobs.storage.place import Place, read_listed
from jobs.store.layout import RUNS, is_run_path, run_path
from schemas.fingerprint import Fingerprint

OUT_OF_TIME: Final = "out of time"
_PACKAGES: Final = (
    *("ray", "torch", "pyarrow", "pillow", "pillow-heif", "pillow-jxl-plugin", "rawpy", "numpy", "scipy"),
    *("safetensors", "tokenizers"),
)


def new_run_id() -> str:
    """An id that sorts by time, such as 20261123-140312-9f2c1a: date, time, its fraction of a second, a random part."""
    moment = datetime.now(UTC)
    fraction = moment.microsecond * 16**3 // 10**6
    return f"{moment:%Y%m%d-%H%M%S}-{fraction:03x}{secrets.randbelow(16**3):03x}"


@dataclass
class RunRecord:
    """The content of a run's `run.json`.

    Attributes:
        run_id: id of the run, also in every row it made.
        arguments: options of the command as given, without secrets.
        fingerprint: fingerprint of its scores.
        state: `running`, `finished`, `out of time`, `interrupted`, or `stopped` by an error; `running` for ever if the
            process died.
        manifest_rows: rows of the manifest.
        held_rows: rows of the manifest that were scored before this run.
        staged_rows: rows that earlier runs of its plan had scored, and that were left to it to commit.
        scored_rows: rows that this run scored.
        described_rows: rows that it added to the texts table, without errors.
        failed_rows: error rows that it made, in either table.
        text_tokens: tokens that it generated.
        copied_rows: scored rows whose score was copied from a row with the same bytes.
        pruned_rows: rows that it dropped, since the source no longer has their images.
        left_rows: rows of the manifest that are left to later runs, since the time that the user gave was over.
        unpruned_rows: rows that the source does not name and that it left: their images may still be there.
        images_per_s: speed after the first unit.
        busy_share: share of their time in which actors worked; None if no actor had a second unit.
        bound: the bottleneck of the run: `gpu` (the model, on whatever device), `cpu`, `network` or `steps`, see
            `jobs.score.bottleneck`; None if no actor had a second unit.
        device: `cpu`, `cuda` or `mps`; None if there was nothing to score.
        dtype: precision of the model; None if there was nothing to score.
        seconds: wall time by phase: `checkpoint` (to identify it), `plan`, and `score`, with the start of Ray and the
            loading of the models.
        loads: for each model that was loaded: its `node`, the seconds to fetch and check its files (`fetch_s`), the
            seconds to load it from there (`load_s`), and what it runs on: `processor`, `driver` (of the GPU), `dtype`,
            `attention` (the kernels) and `batch_size`.
        load_share: mean loading time as a share of the run's wall time, from 0 to 1; None if nothing was loaded.
        commit: commit of the checkout that the code is in; None outside one.
        sources: digest of the code that all its processes ran.
        versions: versions of this program, Python and the packages that it uses.
    """

    run_id: str
    arguments: Mapping[str, Any]
    fingerprint: Fingerprint
    state: str = "running"
    started_at: str = field(default_factory=lambda: now())
    ended_at: str | None = None
    plan_id: str | None = None
    manifest_rows: int = 0
    held_rows: int = 0
    staged_rows: int = 0
    scored_rows: int = 0
    described_rows: int = 0
    failed_rows: int = 0
    text_tokens: int = 0
    copied_rows: int = 0
    pruned_rows: int = 0
    unpruned_rows: int = 0
    left_rows: int = 0
    images_per_s: float | None = None
    busy_share: float | None = None
    bound: str | None = None
    device: str | None = None
    dtype: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    loads: list[dict[str, Any]] = field(default_factory=list)
    load_share: float | None = None
    commit: str | None = field(default_factory=lambda: this_commit())
    sources: str = field(default_factory=lambda: this_code().sources)
    versions: dict[str, str] = field(default_factory=lambda: _versions())

    def end(self, state: str) -> None:
        """Set the state, and now as the end of the run."""
        self.state, self.ended_at = state, now()

    def add(self, receipt: Mapping[str, Any]) -> None:
        """Add a staged unit to the counts, given its row of schema `RECEIPT`."""
        self.scored_rows += receipt["scored"]
        self.described_rows += receipt["described"]
        self.text_tokens += receipt["text_tokens"]
        self.copied_rows += receipt["copied"]
        self.failed_rows += len(receipt["error_types"])

    def add_loads(self, loads: list[dict[str, Any]]) -> None:
        """Set the loading times of models; `seconds` must be complete."""
        self.loads = loads
        if loads:
            mean_s = sum(load["fetch_s"] + load["load_s"] for load in loads) / len(loads)
            self.load_share = round(mean_s / sum(self.seconds.values()), 4)

    def write(self, place: Place) -> None:
        """Write the record to the store."""
        raw = asdict(self)
        raw["arguments"] = {name: printable_argument(value) for name, value in self.arguments.items()}
        place.write(run_path(self.run_id), json.dumps(raw, indent=1).encode())


def read_runs(place: Place) -> list[dict[str, Any]]:
    """The `run.json` of all runs of a store, oldest first. Raises GoneFile."""
    return [json.loads(read_listed(place, file.path)) for file in place.files(RUNS) if is_run_path(file.path)]


def printable_argument(value: Any) -> Any:
    """The value of an option, without secrets, for a record that others read."""
    return without_secrets(value) if isinstance(value, str) else value


def now() -> str:
    """The time, in UTC and whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    versions = {"artimuse-batch": CODE_VERSION, "python": platform.python_version()}
    for package in _PACKAGES:
        if found := package_version(package):
            versions[package] = found
    return versions
