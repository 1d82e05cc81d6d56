"""Parts of a measurement on a machine that is lent for minutes: each guarded, in a limited time, written as it comes.

A part that fails is printed with its traceback, and the next one begins. A part that hangs, as a kernel can, ends the
process when the time is up, with the place where it hangs; what was written before stays.
"""

from __future__ import annotations

import faulthandler
import json
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final, TypeVar

import torch

from bench.engine.gpu_table import Row
from bench.measure.timing import release

_LAST_S: Final = 20.0  # for what is printed at the end

Result = TypeVar("Result")


class GuardedParts:
    """Runs parts one by one.

    Attributes:
        failed: names of the parts that raised an error.
        skipped: names of those for which no time was left.
    """

    def __init__(self, device: torch.device, minutes: float, folder: Path | None = None) -> None:
        """Start the clock.

        Args:
            device: whose memory is given back after each part.
            minutes: after these the process ends, whatever it does.
            folder: gets `results.jsonl`, a line for each result; None to print only.
        """
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self._device, self._began_s, self._whole_s = device, perf_counter(), 60 * minutes
        self._file: Any = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "results.jsonl").open("a", encoding="utf-8")
        faulthandler.dump_traceback_later(self._whole_s, exit=True)

    def close(self) -> None:
        """Stop the clock."""
        faulthandler.cancel_dump_traceback_later()
        if self._file:
            self._file.close()

    @property
    def spent_s(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._began_s

    def run(self, name: str, work: Callable[[], Result], *, expected_s: float = 0.0) -> Result | None:
        """The result of a part, which is written; None if it fails, or if too little time is left.

        Args:
            name: of the part.
            work: returns numbers, strings, rows of the table, lists or dictionaries of these, or what is not written.
            expected_s: on the slowest machine in mind.
        """
        if self.spent_s + expected_s + _LAST_S > self._whole_s:
            self.skipped.append(name)
            print(f"{name}: skipped, no time is left", flush=True)
            return None
        began_s = perf_counter()
        try:
            result = work()
        except Exception as error:  # the other parts have results of their own
            self.failed.append(name)
            print(f"{name}: FAILED", file=sys.stderr)
            traceback.print_exc()
            sys.stderr.flush()
            self._write(name, began_s, {"error": f"{type(error).__name__}: {error}"[:2000]})
            return None
        else:
            self._write(name, began_s, {"result": _plain(result)})
            return result
        finally:
            release(self._device)

    def _write(self, name: str, began_s: float, outcome: Mapping[str, Any]) -> None:
        if self._file:
            line = {"part": name, "seconds": round(perf_counter() - began_s, 3), **outcome}
            print(json.dumps(line), file=self._file, flush=True)


def _plain(result: Any) -> Any:
    """What JSON has of a result; of anything else, such as a model, its name."""
    if isinstance(result, Row):
        return asdict(result)
    if isinstance(result, Mapping):
        return {str(key): _plain(value) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [_plain(part) for part in result]
    return result if isinstance(result, str | int | float | bool | None) else type(result).__name__
