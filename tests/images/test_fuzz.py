"""Some hundred damaged files of every kind in each test run; `fuzz.py` tries many more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fuzz import Target, targets


@pytest.fixture(scope="module")
def readers() -> Iterator[dict[str, Target]]:
    with targets() as found:
        yield {target.name: target for target in found}


@pytest.mark.process
@pytest.mark.parametrize("name", ["pictures", "Parquet manifests", "`test.json`", "checkpoints"])
def test_damaged_files_are_read_or_refused_with_a_sentence(readers: dict[str, Target], name: str) -> None:
    readers[name].run(cases=150, number=1)
    assert readers[name].outcomes["refused"] > 0
