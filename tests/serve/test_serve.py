"""`artimuse serve`: scores over HTTP, batches, limits, and what strangers send."""

from __future__ import annotations

import base64
import gc
import gzip
import json
import socket
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.decoder_faults import faulty, make_fault_folder
from support.golden import golden_answers, golden_images
from support.http_scorer import LONG_S, Client, serving

from artimuse_actor import ArtiMuse, DecodeOptions
from artimuse_actor.engine.describe import Describer
from artimuse_actor.engine.scoring import Scores
from artimuse_actor.errors import NoNumber
from jobs.score.single_images import ImageSettings
from jobs.serve.batcher import Batcher
from jobs.serve.meters import Meters
from jobs.serve.settings import Limits
from jobs.store.text_request import WantedTexts

pytestmark = [pytest.mark.server, pytest.mark.process]

PICTURES = [path.read_bytes() for path in golden_images()]
NEVER = Limits(wait_s=LONG_S)
"""The model waits until its batch is full."""


@pytest.fixture(scope="module")
def client(models: dict[str, ArtiMuse]) -> Iterator[Client]:
    with serving(models["artimuse"], ImageSettings("", texts=WantedTexts(max_new_tokens=12))) as (client, _):
        yield client


@pytest.fixture(scope="module")
def client_of_small_bodies(models: dict[str, ArtiMuse]) -> Iterator[Client]:
    with serving(models["artimuse"], limits=Limits(body_bytes=2_000_000)) as (client, _):
        yield client


@pytest.fixture
def batch_of_four(models: dict[str, ArtiMuse]) -> Iterator[ArtiMuse]:
    model = models["artimuse"]
    before, model.batch_size = model.batch_size, 4
    yield model
    model.batch_size = before


def in_json(*pictures: bytes) -> bytes:
    return json.dumps({"images": [base64.b64encode(data).decode() for data in pictures]}).encode()


def in_parts(*pictures: bytes, boundary: bytes = b"x") -> tuple[bytes, str]:
    head = b'Content-Disposition: form-data; name="image"; filename="a"\r\nContent-Type: image/jpeg\r\n\r\n'
    parts = b"".join(b"--" + boundary + b"\r\n" + head + data + b"\r\n" for data in pictures)
    return parts + b"--" + boundary + b"--\r\n", f"multipart/form-data; boundary={boundary.decode()}"


@pytest.mark.parametrize("form", ["raw", "octets", "json", "list", "data urls", "parts"])
def test_scores_are_those_of_the_model(form: str, client: Client, models: dict[str, ArtiMuse]) -> None:
    pictures = PICTURES[3:6]
    if form in ("raw", "octets"):
        kind = "image/jpeg" if form == "raw" else "application/octet-stream"
        answers = [client.send("/score", data, kind) for data in pictures]
    elif form == "parts":
        answers = [client.send("/score", *in_parts(*pictures))]
    else:
        coded = json.loads(in_json(*pictures))["images"]
        if form == "data urls":
            coded = [f"data:image/png;base64,{data}" for data in coded]
        body = coded if form == "list" else {"images": coded}
        answers = [client.send("/score", json.dumps(body), "application/json; charset=utf-8")]
    results = [result for answer in answers for result in answer.results]
    assert len(results) == len(pictures)
    for result, data in zip(results, pictures, strict=True):
        score = models["artimuse"].score(data)
        assert result["status"] == "ok"
        assert result["score"] == pytest.approx(score.score, abs=1e-3)
        assert result["score_std"] == pytest.approx(score.score_std, abs=1e-3)
    checkpoint = models["artimuse"].checkpoint
    for answer in answers:
        fingerprint = answer.json["fingerprint"]
        assert fingerprint["checkpoint_digest"] == checkpoint.digest
        assert (fingerprint["precision"], fingerprint["protocol"]) == ("float32", "artimuse")


def test_unipercept_has_its_three_scores(models: dict[str, ArtiMuse]) -> None:
    with serving(models["unipercept"]) as (client, _):
        (result,) = client.send("/score", PICTURES[4]).results
        assert client.send("/describe", PICTURES[4]).error == (404, "no_texts")
    published = golden_answers("unipercept")[4]["scores"]
    for question in ("iaa", "iqa", "ista"):
        assert result[question] == pytest.approx(published[question]["score"], abs=1e-3)


def test_texts_are_those_of_the_model_and_scores_go_on_beside_them(client: Client, models: dict[str, ArtiMuse]) -> None:
    with ThreadPoolExecutor(4) as pool:
        described = [pool.submit(client.send, "/describe", in_json(*PICTURES[:3]), "application/json")]
        scored = [pool.submit(client.send, "/score", data) for data in PICTURES[3:6]]
        results = described[0].result().results
        assert [len(answer.result().results) for answer in scored] == [1, 1, 1]
    expected = models["artimuse"].describe(PICTURES[:3], max_new_tokens=12)
    for result, one in zip(results, expected, strict=True):
        assert result["texts"] == one.texts
        assert result["finish_reasons"] == one.finish_reasons
        assert result["score"] == pytest.approx(one.score, abs=1e-3)


def test_pictures_of_concurrent_requests_share_a_batch(batch_of_four: ArtiMuse) -> None:
    with serving(batch_of_four, limits=NEVER) as (client, _), ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda data: client.send("/score", data), PICTURES[:4]))
        meters = client.meters()
    expected = batch_of_four.score(PICTURES[:4])
    for answer, score in zip(answers, expected, strict=True):
        assert answer.results[0]["score"] == pytest.approx(score.score, abs=1e-3)
    assert (meters["batch_images_count"], meters["batch_images_sum"]) == (1, 4)
    assert meters["images_total ok"] == meters["requests_total /score 200"] == 4
    assert meters["seconds_total decode"] > 0
    assert meters["seconds_total model"] > 0
    assert meters["queued_images"] == 0
    assert meters["ready"] == 1


def test_a_batch_is_counted_when_its_answers_are_given(batch_of_four: ArtiMuse) -> None:
    meters, seen = Meters(lambda: 0, lambda: True), list[bytes]()
    batcher = Batcher(batch_of_four, None, LONG_S, meters)
    answer = batcher.submit(np.zeros((448, 448, 3), np.uint8), texts=False)
    answer.add_done_callback(lambda _: seen.append(meters.text()))
    batcher.hurry()
    answer.result()
    batcher.close()
    assert b"artimuse_serve_batch_images_sum 1.0" in seen[0]
    assert b'artimuse_serve_seconds_total{step="model"}' in seen[0]


def test_a_picture_that_cannot_be_read_is_an_error_beside_the_others(client: Client) -> None:
    before = client.meters()
    pictures = [PICTURES[0], b"", b"Dear diary,\n", PICTURES[0][:5000], PICTURES[5]]
    results = client.send("/score", in_json(*pictures), "application/json").results
    assert [result.get("error_type") for result in results] == [None, "empty", "not_an_image", "truncated", None]
    assert all(result["error_message"] for result in results[1:4])
    after = client.meters()
    assert after["images_total error"] - before.get("images_total error", 0) == 3
    assert after["failed_images_total truncated"] - before.get("failed_images_total truncated", 0) == 1


def test_no_url_and_no_path_is_read(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(PICTURES[0])
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.jpg"
        named = [url, path.as_uri(), str(path), "s3://bucket/a.jpg", 5, None, {"url": url}]
        results = client.send("/score", json.dumps({"images": named}), "application/json").results
        with pytest.raises(BlockingIOError):
            server.accept()
    assert [result["error_type"] for result in results] == ["bad_row"] * len(named)
    assert client.send("/score", json.dumps({"url": url}), "application/json").error == (400, "bad_body")


@pytest.mark.slow
def test_a_picture_that_kills_its_decoder_is_an_error_and_the_server_goes_on(
    models: dict[str, ArtiMuse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in make_fault_folder(tmp_path / "faults").items():
        monkeypatch.setenv(name, value)
    hasty = DecodeOptions(decoder_timeout_s=5.0)
    with serving(models["artimuse"], ImageSettings("", options=hasty)) as (client, _):
        body = in_json(faulty("SEGFAULT"), faulty("SLEEP"), PICTURES[5])
        results = client.send("/score", body, "application/json").results
        assert [result.get("error_type") for result in results] == ["decoder_crashed", "decoder_timeout", None]
        assert client.send("/score", PICTURES[5]).results[0]["status"] == "ok"


JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "kind", "error"),
    [
        (b"", JSON, (400, "bad_body")),
        (b"{", JSON, (400, "bad_body")),
        (b"[" * 1_500, JSON, (400, "bad_body")),
        (b"\xff\xfe\x00", JSON, (400, "bad_body")),
        (b"[]", JSON, (400, "bad_body")),
        (b'{"images": []}', JSON, (400, "bad_body")),
        (b'{"images": "abc"}', JSON, (400, "bad_body")),
        (b"[" + b'"",' * 300 + b'""]', JSON, (413, "too_many_images")),
        (b"[" + b"[]," * 500_000 + b"[]]", JSON, (413, "too_many_images")),
        (b'{"a":{}' + b',"a":{}' * 200_000 + b"}", JSON, (413, "too_many_images")),
        (b"1" * 5_000, JSON, (400, "bad_body")),
        (b"x=1", "application/x-www-form-urlencoded", (415, "unsupported_body")),
        (b"x", "text/html", (415, "unsupported_body")),
        (b"x", "multipart/mixed; boundary=x", (415, "unsupported_body")),
        (b"no parts", "multipart/form-data; boundary=x", (400, "bad_body")),
        (b"--x\r\n", "multipart/form-data", (400, "bad_body")),
        (b"--x\r\nno head", "multipart/form-data; boundary=x", (400, "bad_body")),
        (b"--x--\r\n", "multipart/form-data; boundary=x", (400, "bad_body")),
        (in_parts(b"a")[0].replace(b"image/jpeg", b"multipart/mixed; boundary=y"), in_parts()[1], (400, "bad_body")),
        (*in_parts(*[b""] * 300), (413, "too_many_images")),
        (bytes(2_000_001), "image/png", (413, "body_too_large")),
        (iter([bytes(1_000_000)] * 3), "image/png", (413, "body_too_large")),
        (iter([b'["' + b"A" * 1_000_000] * 3), JSON, (413, "body_too_large")),
        (iter([in_parts(bytes(3_000_000))[0]]), in_parts()[1], (413, "body_too_large")),
    ],
)
def test_a_body_without_pictures_is_refused_with_a_reason(
    body: Any, kind: str, error: tuple[int, str], client_of_small_bodies: Client
) -> None:
    client = client_of_small_bodies
    answer = client.send("/score", body, kind)
    assert answer.error == error
    assert len(answer.json["error"]["message"]) < 600
    assert client.send("/score", PICTURES[5]).results[0]["status"] == "ok"
    assert client.meters()["queued_images"] == 0


def test_a_part_whose_name_makes_no_sense_is_a_picture_like_others(models: dict[str, ArtiMuse]) -> None:
    body, kind = in_parts(b"a")
    with serving(models["artimuse"]) as (client, _):  # which silences warnings when it starts, in this test alone
        answer = client.send("/score", body.replace(b'name="image"', b'name=!"'), kind)
        assert answer.results[0]["error_type"] == "not_an_image"
        assert client.send("/score", PICTURES[5]).results[0]["status"] == "ok"
        assert client.meters()["queued_images"] == 0


def test_compressed_bodies_are_refused(client: Client) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    assert client.send("/score", bomb, Content_Encoding="gzip").error == (415, "unsupported_body")


@pytest.mark.parametrize("sent", [b"\x16\x03\x01 TLS\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"POST /score HTTP/1.1\r\n"])
def test_what_is_no_http_ends_its_connection_only(sent: bytes, client: Client) -> None:
    with socket.create_connection((client.connect().host, client.connect().port), timeout=LONG_S) as stranger:
        stranger.sendall(sent)
        stranger.shutdown(socket.SHUT_WR)
        while stranger.recv(1000):
            pass
    assert client.send("/score", PICTURES[5]).status == 200


@pytest.mark.parametrize("path", ["/score", "/describe", "/metrics", "/nothing"])
@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", "Basic YTpi", "Bearer \xff", f"Bearer {'x' * 5_000}"]
)
def test_without_the_token_nothing_is_answered_but_the_health(path: str, header: str | None, client: Client) -> None:
    stranger = Client(client.url, token=None)
    headers = {} if header is None else {"Authorization": header}
    answer = stranger.send(path, b"x", **headers)
    assert answer.error == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert stranger.send("/healthz", method="GET").json == {"status": "ready"}


def test_a_model_that_is_being_loaded_is_not_ready() -> None:
    with serving(None) as (client, _):
        assert client.send("/healthz", method="GET").error == (503, "loading")
        answer = client.send("/score", PICTURES[0])
        assert answer.error == (503, "loading")
        assert int(answer.headers["Retry-After"]) > 0
        assert client.meters()["ready"] == 0


def test_more_than_the_queue_holds_is_refused_until_there_is_room(batch_of_four: ArtiMuse) -> None:
    limits = Limits(queue=5, wait_s=LONG_S)
    with serving(batch_of_four, limits=limits) as (client, _), ThreadPoolExecutor(1) as pool:
        too_many = client.send("/score", in_json(*[PICTURES[5]] * 6), "application/json")
        assert too_many.error == (413, "too_many_images")
        first = pool.submit(client.send, "/score", in_json(*PICTURES[:3]), "application/json")
        client.wait_until_queued(3)
        refused = client.send("/score", in_json(*PICTURES[:3]), "application/json")
        assert refused.error == (503, "busy")
        assert int(refused.headers["Retry-After"]) > 0
        assert client.send("/score", PICTURES[3]).results[0]["status"] == "ok"  # the fourth of the batch
        assert len(first.result().results) == 3


def test_bodies_beyond_the_memory_for_them_are_refused(models: dict[str, ArtiMuse]) -> None:
    limits = Limits(body_bytes=100_000)
    with serving(models["artimuse"], limits=limits) as (client, _):
        connections = [client.connect() for _ in range(8)]
        for connection in connections:
            connection.putrequest("POST", "/score")
            connection.putheader("Authorization", f"Bearer {client.token}")
            connection.putheader("Content-Type", "image/jpeg")
            connection.putheader("Content-Length", "100000")
            connection.endheaders(b"the beginning")
        ends = []
        while (answer := client.send("/score", PICTURES[4])).status == 200:
            ends.append(answer)  # not all are read yet
        assert answer.error == (503, "busy")
        for connection in connections:
            connection.close()
        client.wait_until(lambda meters: meters.get("requests_total /score 499") == 8)
        assert client.send("/score", PICTURES[4]).status == 200


def test_a_request_ends_at_its_time_and_leaves_nothing_behind(batch_of_four: ArtiMuse) -> None:
    limits = Limits(timeout_s=1.0, wait_s=LONG_S)
    with serving(batch_of_four, limits=limits) as (client, _):
        assert client.send("/score", in_json(*PICTURES[:3]), "application/json").error == (504, "timeout")
        assert client.meters()["queued_images"] == 0
        slow = client.connect()
        slow.putrequest("POST", "/score")
        slow.putheader("Authorization", f"Bearer {client.token}")
        slow.putheader("Content-Type", "image/jpeg")
        slow.putheader("Content-Length", "100")
        slow.endheaders(b"and no more")
        assert slow.getresponse().status == 408
        slow.close()


def test_pictures_whose_client_has_left_are_not_scored(batch_of_four: ArtiMuse) -> None:
    with serving(batch_of_four, limits=NEVER) as (client, _), ThreadPoolExecutor(4) as pool:
        leaving = client.connect()
        headers = {"Authorization": f"Bearer {client.token}", "Content-Type": "application/json"}
        leaving.request("POST", "/score", in_json(*PICTURES[:3]), headers)
        client.wait_until_queued(3)
        leaving.close()
        client.wait_until_queued(0)
        answers = list(pool.map(lambda data: client.send("/score", data), PICTURES[:4]))
        assert [answer.status for answer in answers] == [200] * 4
        meters = client.meters()
    assert meters["batch_images_sum"] == 4
    assert meters["requests_total /score 499"] == 1


def test_a_picture_without_a_number_leaves_the_others_of_its_batch_alone(
    batch_of_four: ArtiMuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_pixels = batch_of_four.score_pixels
    poison = batch_of_four.score(PICTURES[1]).score

    def scored(pixels: Any) -> Scores:
        scores = score_pixels(pixels)
        if np.isclose(scores.score, poison, atol=1e-3).any():
            raise NoNumber("No number.")
        return scores

    monkeypatch.setattr(batch_of_four, "score_pixels", scored)
    with serving(batch_of_four, limits=NEVER) as (client, _), ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda data: client.send("/score", data), PICTURES[:4]))
    assert [answer.status for answer in answers] == [200, 500, 200, 200]
    assert answers[1].error == (500, "model_failed")


def test_the_cache_of_a_step_without_a_number_is_gone_before_the_next_one_is_made(batch_of_four: ArtiMuse) -> None:
    made: list[weakref.ref[Describer]] = []
    alive: list[int] = []

    def new_describer() -> Describer:
        alive.append(sum(describer() is not None for describer in made))
        describer = batch_of_four.describer(max_new_tokens=3)
        made.append(weakref.ref(describer))
        if len(made) == 1:
            vars(describer.engine)["step"] = no_number
        return describer

    def no_number() -> None:
        raise NoNumber("No number.")

    batcher = Batcher(batch_of_four, new_describer, 0.0, Meters(lambda: 0, lambda: True))
    gc.disable()
    try:
        pixels = np.zeros((448, 448, 3), np.uint8)
        with pytest.raises(NoNumber):
            batcher.submit(pixels, texts=True).result(LONG_S)
        assert batcher.submit(pixels, texts=True).result(LONG_S)
    finally:
        gc.enable()
        batcher.close()
    assert alive == [0, 0]


def test_a_device_that_breaks_ends_the_model_and_every_request_with_it(
    batch_of_four: ArtiMuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Scores:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(batch_of_four, "score_pixels", broken)
    with serving(batch_of_four) as (client, service):
        assert client.send("/score", PICTURES[4]).error == (503, "ending")
        assert service.scorer is not None
        with pytest.raises(RuntimeError, match="the device is lost"):
            service.scorer.batcher.ended.result(LONG_S)
        assert client.send("/score", PICTURES[4]).error == (503, "ending")


def test_requests_in_flight_are_answered_when_the_server_ends(batch_of_four: ArtiMuse) -> None:
    with ThreadPoolExecutor(1) as pool, serving(batch_of_four, limits=NEVER) as (client, _):
        waiting = pool.submit(client.send, "/score", in_json(*PICTURES[:2]), "application/json")
        client.wait_until_queued(2)
        assert not waiting.done()
    assert [result["status"] for result in waiting.result().results] == ["ok", "ok"]
