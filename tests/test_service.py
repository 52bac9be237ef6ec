"""common/inference/service: predictions for uploads, refusals, and the limits."""

import contextlib
import functools
import inspect
import queue
import random
import re
import socket
import tempfile
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable

import combine
from common.faces import decode, heic
from common.inference.codes import Codes
from common.inference.predictions import Predictions
from common.inference.service import computing, connections, uploads
from common.inference.service.app import PAGE, PredictPhoto, create_app
from common.inference.service.reasons import REASON_CODES as REASONS
from common.inference.service.reasons import reason_code
from common.inference.service.server import bound
from tests.benchmarks.fuzz import SEEDS, mutated, outcome
from tests.photos import PICTURE, REJECTED, exif_photo, file
from tests.serving import no_models, served

PHOTO = file("JPEG")
LARGE = file("BMP", np.zeros((1500, 2200, 3), np.uint8))  # 9.9 MB, just below the limit
HOSTILE = 200
# httpx's default of 5 s is short on a busy machine.
get, post = (functools.partial(method, timeout=60) for method in (httpx.get, httpx.post))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(create_app(no_models, combine.CODES, at_once=4, threads=2)) as place:
        yield place


def sent(url: str, *photos: bytes, name: str = "x.jpg", **more: object) -> httpx.Response:
    files = [("files", (name, photo)) for photo in photos]
    return post(f"{url}/predict", files=files, **more)


def multipart(*parts: tuple[bytes, bytes], end: bytes = b"--b--\r\n") -> bytes:
    """A body with the boundary b, of (headers, content)."""
    return b"".join(b"--b\r\n" + h + b"\r\n\r\n" + c + b"\r\n" for h, c in parts) + end


def posted(url: str, body: bytes, kind: str = "multipart/form-data; boundary=b") -> httpx.Response:
    return post(f"{url}/predict", content=body, headers={"content-type": kind})


FILE = b'Content-Disposition: form-data; name="files"; filename="x.jpg"'


# Predictions


def test_every_face_of_every_photo_in_order(url: str) -> None:
    turned = exif_photo(6)  # stored 64 wide, upright 48
    files = [("files", ("한국 <b>.jpg", PHOTO)), ("files", ("../b.png", turned))]
    response = post(f"{url}/predict", files=files)
    assert response.status_code == 200
    photos = response.json()["photos"]
    assert [photo["name"] for photo in photos] == ["한국 <b>.jpg", "../b.png"]
    assert [(photo["width"], photo["height"]) for photo in photos] == [(48, 64)] * 2
    face = photos[1]["faces"][1]
    assert list(face) == ["box", "face_found", *combine.CODES.classes, "code"]
    assert face["box"] == [24, 0, 48, 64] and face["face_found"] is True
    assert face["gender"] == {"answer": "female", "probabilities": {"male": 0.375, "female": 0.625}}
    words = [face[task]["answer"] for task in combine.CODES.classes]
    assert combine.NAMES[face["code"]] == " ".join(words) == "incorrect female 30-59"


def test_all_or_nothing_and_every_bad_file_by_name(url: str) -> None:
    files = [
        ("files", (f"{place}.jpg", photo))
        for place, photo in enumerate((PHOTO, b"<html>", PHOTO, b"", PHOTO[:400]))
    ]
    refused = post(f"{url}/predict", files=files)
    assert refused.status_code == 422
    problem = refused.json()
    assert problem["detail"] == "3 of 5 files can't be predicted"
    assert [bad["name"] for bad in problem["files"]] == ["1.jpg", "3.jpg", "4.jpg"]
    reasons = [bad["reason"] for bad in problem["files"]]
    assert reasons[0].startswith("not a photo") and reasons[1] == "empty file"
    assert reasons[2].startswith("damaged")
    assert [bad["code"] for bad in problem["files"]] == ["format", "empty", "damaged"]


def test_every_reason_to_refuse_a_photo_has_a_code_that_the_page_translates() -> None:
    source = inspect.getsource(decode)
    parts = re.findall(r"BadPhoto\(\s*f?\"([^\"]+)", source)
    assert len(parts) >= 8
    said = [re.sub(r"\{[^}]*\}", "1", part) for part in parts]
    codes = {words: reason_code(words) for words in [*said, decode.TOO_MANY_PIXELS, heic.WAY]}
    assert not [words for words, code in codes.items() if code == "other" and "file" not in words]
    korean = (PAGE / "page.js").read_text("utf-8").rpartition("reasons: {")[2].partition("}")[0]
    assert set(re.findall(r"(\w+): \"", korean)) >= {*REASONS} - {"other"}


def test_a_photo_at_the_limit_never_touches_the_disk(url: str, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    assert 9_000_000 < len(LARGE) < uploads.FILE_BYTES
    assert sent(url, LARGE, LARGE).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(url: str) -> None:
    page = get(url)
    parts = re.findall(r'(?:src|href)="(page\.[a-z]+)"', page.text)
    assert sorted(parts) == ["page.css", "page.js"]
    for response in (page, *(get(f"{url}/{part}") for part in parts)):
        assert response.status_code == 200
        assert "http" not in response.text.replace('http-equiv="', "")
        assert response.headers["content-security-policy"].startswith(
            "default-src 'none'; script-src"
        )
        assert response.headers["x-content-type-options"] == "nosniff"
    assert sent(url, PHOTO).headers["cache-control"] == "no-store"
    assert [get(f"{url}/{name}").status_code for name in ("docs", "redoc")] == [404, 404]


def test_another_task_appears_on_the_page_and_in_the_api() -> None:
    codes = Codes(
        {"glasses": ["none", "worn"], "mask": ["on", "off", "chin"]}, {"hat": ["no", "yes"]}
    )
    with served(create_app(no_models, codes, at_once=1, threads=1)) as place:
        page, api = get(place).text, get(f"{place}/openapi.json").json()
    assert "<title>Glasses, mask, hat</title>" in page
    assert """data-weights='[["glasses", 3], ["mask", 1]]'""" in page
    assert api["info"]["title"] == "Glasses, mask, hat of faces"
    assert api["components"]["schemas"]["Hat"]["properties"]["answer"]["enum"] == ["no", "yes"]


def test_every_class_has_a_name_in_both_languages() -> None:
    script = (PAGE / "page.js").read_text("utf-8")
    for task, words in combine.CODES.classes.items():
        for word in (task, *words):
            assert len(re.findall(rf'["\s{{]{re.escape(word)}"?: "', script)) == 2, word


# Refusals


REFUSED = {
    "a file of more than 10 MB": (413, multipart((FILE, bytes(10_000_001))), "more than 10 MB"),
    "more than 40 MB": (413, multipart(*[(FILE, LARGE)] * 5), "more than 40 MB"),
    "17 files": (400, multipart(*[(FILE, PHOTO)] * 17), "Too many files"),
    "no part": (422, b"--b--\r\n", "no photos"),
    "another name": (422, multipart((FILE.replace(b"files", b"photo"), PHOTO)), "part 'photo'"),
    "a text": (422, multipart((FILE.partition(b"; filename")[0], b"x")), "part 'files'"),
    "no name": (400, multipart((b"Content-Disposition: form-data", b"x")), "name"),
    "cut short": (400, multipart((FILE, PHOTO), (FILE, PHOTO), end=b"")[:-99], "last boundary"),
    "no last boundary": (400, multipart((FILE, PHOTO), end=b""), "last boundary"),
    "noise": (400, random.Random(0).randbytes(999), ""),
    "nothing": (400, b"", "last boundary"),
}


@pytest.mark.parametrize(("status", "body", "words"), REFUSED.values(), ids=REFUSED)
def test_a_body_that_is_not_a_form_of_photos_is_refused(
    url: str, status: int, body: bytes, words: str
) -> None:
    refused = posted(url, body)
    assert refused.status_code == status
    assert words in refused.text and set(refused.json()) == {"detail", "files"}


def test_a_request_without_a_length_is_limited_too(url: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"--b\r\n" + FILE + b"\r\n\r\n"
        for _ in range(45):
            yield bytes(1_000_000)
        yield b"\r\n--b--\r\n"

    assert posted(url, chunks()).status_code == 413


@pytest.mark.parametrize("kind", ["", "image/jpeg", "application/x-www-form-urlencoded"])
def test_other_kinds_of_body_are_refused(url: str, kind: str) -> None:
    assert posted(url, PHOTO, kind).status_code == 415
    assert posted(url, PHOTO, "multipart/form-data").status_code == 400  # without a boundary


def test_other_host_names_are_refused(url: str) -> None:
    """An attacker's name may resolve to 127.0.0.1."""
    port = urlsplit(url).port
    for name, status in (("evil.example", 400), ("localhost", 200), ("127.0.0.1", 200)):
        assert get(url, headers={"host": f"{name}:{port}"}).status_code == status
    app = create_app(no_models, combine.CODES, at_once=1, threads=1, hosts=["0.0.0.0"])
    with served(app) as anywhere:
        assert get(anywhere, headers={"host": "camera.lan"}).status_code == 200


def hostile() -> Iterator[tuple[str, bytes]]:
    """Yield names and files that aren't photos."""
    names = ("x.jpg", "../../etc/passwd", "x" * 5000, "a\0b\r\nc.png", "😀.svg", '"; x="', "%s%n")
    for place, data in enumerate(REJECTED.values()):
        yield names[place % len(names)], data
    rng = random.Random(1)
    while True:
        data = mutated(rng.choice(list(SEEDS)), rng)
        if outcome(data) == "bad":
            yield rng.choice(names), data


def test_hostile_uploads_get_4xx_and_the_service_goes_on(url: str) -> None:
    with httpx.Client() as client:
        for (name, data), _ in zip(hostile(), range(HOSTILE), strict=False):
            refused = client.post(f"{url}/predict", files=[("files", (name, data))])
            assert 400 <= refused.status_code < 500, (name, data[:99])
            assert refused.json()["detail"]
        for seed in range(40):  # damaged forms
            body = bytearray(multipart((FILE, PHOTO), (FILE, PHOTO)))
            rng = random.Random(seed)
            for _ in range(3):
                body[rng.randrange(200)] = rng.randrange(256)
            refused = posted(url, bytes(body[: rng.randrange(len(body))]))
            assert 400 <= refused.status_code < 500
    assert get(f"{url}/health").json() == {"status": "ok"}
    assert sent(url, PHOTO).status_code == 200


def test_requests_beyond_the_limit_get_503() -> None:
    """They are asked to try again; GET /health responds meanwhile."""
    started, go_on = threading.Semaphore(0), threading.Event()

    def wait(photo: np.ndarray):
        started.release()
        assert go_on.wait(30)
        return no_models(photo)

    with served(create_app(wait, combine.CODES, at_once=3, threads=2)) as url:
        answers: queue.Queue[httpx.Response] = queue.Queue()
        clients = [threading.Thread(target=lambda: answers.put(sent(url, PHOTO))) for _ in range(4)]
        for client in clients:
            client.start()
        refused = answers.get(timeout=60)  # whichever came last; the third waits for a thread
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1" and "3 requests" in refused.json()["detail"]
        assert started.acquire(timeout=30) and started.acquire(timeout=30)
        assert get(f"{url}/health").status_code == 200
        go_on.set()
        for client in clients:
            client.join()
        assert [answers.get(timeout=1).status_code for _ in range(3)] == [200] * 3
        assert sent(url, PHOTO).status_code == 200


def test_a_slow_client_loses_its_place(monkeypatch) -> None:
    monkeypatch.setattr(uploads, "READ_SECONDS", 0.5)
    start = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n"
    with served(create_app(no_models, combine.CODES, at_once=1, threads=1)) as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port), timeout=30) as slow:
            slow.sendall(start + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b")
            assert slow.recv(99).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection((place.hostname, place.port)) as gone:
            gone.sendall(start + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b")
        for _ in range(2):
            while (response := sent(url, PHOTO)).status_code == 503:
                pass
            assert response.status_code == 200


def test_a_page_of_another_site_cannot_have_photos_computed(url: str) -> None:
    """A browser states where a request comes from; programs state nothing."""
    own, port = url, urlsplit(url).port
    for headers, status in (
        ({"origin": "https://evil.example"}, 403),
        ({"origin": f"http://evil.example:{port}"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site", "origin": own}, 403),
        ({"origin": own}, 200),
        ({"origin": own, "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "https://faces.example", "sec-fetch-site": "same-origin"}, 200),
    ):
        response = sent(url, PHOTO, headers=headers)
        assert response.status_code == status, headers
        assert status == 200 or "another site" in response.json()["detail"]
    assert get(f"{url}/health", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def unfinished(url: str) -> socket.socket:
    """A connection with the beginning of a request."""
    client = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=30)
    client.sendall(b"GET /health HTTP/1.1\r\nHost: local")
    return client


def test_headers_that_do_not_end_lose_their_connection(monkeypatch) -> None:
    """The first request's and, on a connection that was kept, the next one's."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.3)
    app = create_app(no_models, combine.CODES, at_once=1, threads=1)
    with served(app) as url, unfinished(url) as slow, unfinished(url) as kept:
        kept.sendall(b"host\r\n\r\n")
        received = b""
        while not received.endswith(b'"ok"}'):
            received += kept.recv(999)
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        for client in (slow, kept):
            with contextlib.suppress(ConnectionError):
                assert client.recv(99) == b""


def test_more_connections_than_the_limit_keep_nobody_out(monkeypatch) -> None:
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 20)
    with served(create_app(no_models, combine.CODES, at_once=1, threads=1)) as url:
        clients = [unfinished(url) for _ in range(60)]
        assert get(f"{url}/health").json() == {"status": "ok"}
        assert sent(url, PHOTO).status_code == 200
        for client in clients:
            client.close()


def stuck(started: threading.Semaphore, go_on: threading.Event) -> PredictPhoto:
    """A prediction that takes until `go_on` for a photo that is wider than high."""

    def predict(photo: np.ndarray) -> Predictions:
        started.release()
        if photo.shape[1] > photo.shape[0]:
            assert go_on.wait(60)
        return no_models(photo)

    return predict


def test_a_photo_that_takes_too_long_is_refused_and_the_others_go_on(monkeypatch) -> None:
    monkeypatch.setattr(computing, "PHOTO_SECONDS", 0.2)
    monkeypatch.setattr(computing, "MOST_LOST", 2)
    started, go_on = threading.Semaphore(0), threading.Event()
    wide = file("JPEG", PICTURE.transpose(1, 0, 2).copy())
    app = create_app(stuck(started, go_on), combine.CODES, at_once=4, threads=1)
    with served(app) as url:
        for _ in range(2):
            refused = sent(url, wide)
            assert refused.status_code == 422 and "1 photo took more than" in refused.text
        assert sent(url, PHOTO).status_code == 503, "two threads are lost"
        go_on.set()
        while (response := sent(url, PHOTO)).status_code == 503:
            pass
        assert response.status_code == 200


def test_photos_of_a_client_that_went_away_are_not_computed() -> None:
    started, go_on = threading.Semaphore(0), threading.Event()
    wide = file("JPEG", PICTURE.transpose(1, 0, 2).copy())
    app = create_app(stuck(started, go_on), combine.CODES, at_once=1, threads=1)
    body = multipart(*[(FILE, wide)] * 5)
    start = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    kind = "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    with served(app) as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port), timeout=30) as gone:
            gone.sendall((start + kind).encode() + body)
            assert started.acquire(timeout=30)
        while (response := sent(url, PHOTO)).status_code == 503:
            pass  # until the place of the client is free, while its first photo still takes time
        assert response.status_code == 200 and started.acquire(timeout=30)
        go_on.set()
    assert not started.acquire(timeout=0.2), "its second photo"


# Requests generated from the OpenAPI


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_the_openapi_is_right(url: str, mode: schemathesis.GenerationMode) -> None:
    """Random bytes fit the schema but aren't photos."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    excluded = [schemathesis.checks.positive_data_acceptance]
    operation = schema["/predict"]["POST"]
    answer = operation.Case(body={"files": [PHOTO]}, media_type="multipart/form-data")
    assert answer.call_and_validate().status_code == 200
    met = []
    for operation in schema.get_all_operations():

        @settings(max_examples=25, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.ok().as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            case.call_and_validate(excluded_checks=excluded)

        met.append(operation.ok().label)
        with contextlib.suppress(Unsatisfiable):  # GET /health has no parameters
            ask()
    assert met == ["POST /predict", "GET /health"]


# The command


WRONG = {
    "--at-once 4": "--at-once goes with --serve",
    "--serve --input x.jpg --faces all": "without --input, --faces",
    "--serve --submissions a.csv b.csv": "without --submissions",
    "--serve {port}": "Address already in use; name another port",
    "--serve 192.0.2.1:80": "--serve 192.0.2.1:80: Cannot assign requested address",
    "--serve 70000": "--serve: '70000': expected a whole number from 0 to 65535",
    "--serve a/b:80": "expected a port or HOST:PORT",
    "--serve --at-once 0": "--at-once: '0': expected a whole number from 1",
    "--serve 0": "nowhere.pt: no such checkpoint",
}


@pytest.mark.parametrize("line", WRONG)
def test_what_cannot_be_served_is_reported_in_a_line(line: str, tmp_path, capsys) -> None:
    (tmp_path / "model.pt").touch()
    with bound("127.0.0.1", 0) as taken:
        taken.listen()
        model = "nowhere.pt" if line == "--serve 0" else str(tmp_path / "model.pt")
        words = line.format(port=taken.getsockname()[1]).split()
        files = [word for task in combine.CODES.classes for word in (f"--{task}", model)]
        with contextlib.suppress(SystemExit):
            assert combine.main(words if "--submissions" in words else [*files, *words]) == 2
    printed = capsys.readouterr().err
    assert WRONG[line] in printed and printed.splitlines()[-1].startswith(("error", "python"))
