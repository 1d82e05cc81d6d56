"""The limit of a run, from the seconds of its units alone."""

from __future__ import annotations

import json
import time

import pytest

from artimuse_actor.engine.device_clock import DeviceClock
from jobs.score import progress
from jobs.score.bottleneck import Heartbeat, Pulse, Totals, UnitTimes, heartbeat
from jobs.score.events import Events
from jobs.score.progress import Progress


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def unit(
    wait_s: float | None, model_s: float, *, fetch_s: float = 0, decode_s: float = 0, actor: str = "a:1"
) -> UnitTimes:
    return UnitTimes(actor, 50_000_000, fetch_s, decode_s, wait_s, model_s)


def judged(*units: UnitTimes, cores: int = 4) -> Heartbeat:
    return heartbeat(Totals.of(units), cores)


def test_a_run_without_a_unit_is_starting() -> None:
    assert judged().bound == "starting"
    assert judged().sentence("cuda") == judged().words("cuda") == "starting"


def test_the_first_unit_of_an_actor_says_nothing_since_start_up_is_no_waiting() -> None:
    assert judged(unit(None, 1, decode_s=100)).bound == "starting"
    assert judged(unit(None, 1, decode_s=100), unit(0.02, 1, decode_s=1)).bound == "gpu"


def test_actors_that_are_busy_nine_tenths_of_their_time_are_what_limits() -> None:
    found = judged(unit(0.1, 0.9, decode_s=100))
    assert (found.bound, found.busy_share, found.more_cores) == ("gpu", 0.9, None)
    assert judged(unit(0.11, 0.89, decode_s=100)).bound == "cpu"
    assert found.sentence("cuda") == "GPU busy 90%"
    assert found.words("cuda") == "GPU-bound"
    assert found.words("cpu") == "model-bound"


def test_actors_that_wait_for_decoding_want_cores_and_say_how_many() -> None:
    # A unit takes 31 s to load and 2 s to score: 15.5 cores would keep one model busy, and there are 7.
    found = judged(unit(1.2, 2, fetch_s=1, decode_s=30), cores=7)
    assert (found.bound, found.more_cores) == ("cpu", 9)
    assert found.sentence("cuda") == "GPU busy 62%; waiting for images: decoding (about 9 more CPU cores would do)"
    assert found.words("cuda") == "starved for CPU"


def test_two_models_want_twice_the_cores() -> None:
    units = [unit(2, 2, decode_s=20, actor=actor) for actor in ("a:1", "b:1")]
    assert judged(*units, cores=10).more_cores == 10
    assert judged(*units[:1], cores=5).more_cores == 5


def test_with_the_advised_cores_the_rule_no_longer_misses_any() -> None:
    for decode_s in (3.0, 7.7, 100.0):
        found = judged(unit(2, 1, decode_s=decode_s), cores=2)
        assert found.more_cores is not None
        assert judged(unit(2, 1, decode_s=decode_s), cores=2 + found.more_cores).bound == "steps"
        assert judged(unit(2, 1, decode_s=decode_s), cores=1 + found.more_cores).bound == "cpu"


def test_actors_that_wait_for_bytes_want_a_network_and_say_how_fast() -> None:
    found = judged(unit(9, 1, fetch_s=40, decode_s=5))
    assert (found.bound, found.more_cores) == ("network", None)
    assert found.sentence("cuda") == (
        "GPU busy 10%; waiting for images: fetching 5.0 MB/s (about 50.0 MB/s would do)"
    )  # fmt: skip
    assert found.words("cuda") == "starved for network"


def test_actors_that_wait_though_loading_is_fast_enough_are_called_by_no_wrong_name() -> None:
    found = judged(unit(1, 1, fetch_s=1, decode_s=1))
    assert found.bound == "steps"
    assert found.sentence("cpu") == "model busy 50%; waiting for units, though loading takes fewer cores than there are"


def test_a_run_that_only_copies_scores_waits_for_its_loaders_and_gets_no_advice() -> None:
    found = judged(unit(5, 0, fetch_s=4, decode_s=1))
    assert (found.bound, found.busy_share, found.wanted_bytes_per_s) == ("network", 0, None)
    assert found.sentence("cpu") == "model busy 0%; waiting for images: fetching 10.0 MB/s"
    assert judged(unit(5, 0, decode_s=1)).sentence("cpu") == "model busy 0%; waiting for images: decoding"


def test_a_pulse_forgets_what_is_a_minute_old_but_for_the_sum() -> None:
    clock = Clock()
    pulse = Pulse(clock)
    pulse.cores = 4
    assert pulse.silent_s is None
    for _ in range(20):
        clock.now += 1
        pulse.add(unit(9, 1, decode_s=90))
    assert pulse.last().bound == "cpu"
    clock.now += 100
    for _ in range(10):
        clock.now += 1
        pulse.add(unit(0, 1, decode_s=1))
    assert pulse.last() == Heartbeat("gpu", 1.0)
    assert pulse.overall().bound == "cpu"
    clock.now += 42
    assert pulse.silent_s == 42


def test_a_device_clock_loses_no_second_between_overlapping_units() -> None:
    now = Clock()
    clock = DeviceClock(now)

    def work(seconds: float) -> None:
        with clock.working():
            now.now += seconds

    now.now = 5
    work(2)
    first = clock.take()
    assert (first.waited_s, first.worked_s, first.passes) == (None, 2, 1)
    now.now += 3
    work(1)
    work(4)
    now.now += 0.5
    work(1)
    second = clock.take()
    assert (second.waited_s, second.worked_s, second.passes) == (3.5, 6, 3)
    assert clock.take().waited_s == 0


def test_a_log_gets_a_line_now_and_then_even_if_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.05)
    pulse = Pulse()
    with Events("r", "text") as events, Progress(100, 0, pulse, events).shown() as shown:
        _wait_for_lines(capfd, "0/100 images (0%), starting")
        pulse.add(unit(8, 2, decode_s=100))
        shown.add(10, 1)
        busy = "model busy 20%; waiting for images: decoding (about 49 more CPU cores would do)"
        _wait_for_lines(capfd, f"10/100 images (10%), 1 errors, {busy}; no unit since 0 s")


def test_heartbeats_are_events_for_those_who_collect_them(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.05)
    pulse = Pulse()
    pulse.add(unit(8, 2, decode_s=100))
    with Events("r", "json") as events, Progress(100, 40, pulse, events).shown():
        lines = _wait_for_lines(capfd, "heartbeat")
    expected = {"event": "heartbeat", "run_id": "r", "bound": "cpu", "busy_share": 0.2, "more_cores": 49, "done": 40}
    assert expected.items() <= json.loads(lines.splitlines()[0]).items()


def _wait_for_lines(capfd: pytest.CaptureFixture[str], wanted: str) -> str:
    seen, until = "", time.monotonic() + 20
    while wanted not in seen:
        assert time.monotonic() < until, seen
        time.sleep(0.05)
        seen += capfd.readouterr().err
    return seen
