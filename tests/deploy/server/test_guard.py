"""Who gets in, how much may come in, and the headers that go out."""

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from miniclip.deploy.server import Access, Limits
from tests.deploy.server.conftest import Serve, png

TOKEN = "a long secret"


@pytest.fixture
def guarded(serve: Serve) -> TestClient:
    """Of a server on every address, with a token."""
    return serve(access=Access(loopback=False, token=TOKEN), limits=Limits(upload_bytes=1000))


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]:8000"])
def test_names_of_this_machine_are_taken(client: TestClient, host: str) -> None:
    assert client.get("/healthz", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.", "[", "", "a b"]
)
def test_a_foreign_host_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/healthz", headers={"host": host})
    assert answer.status_code == 400 and "127.0.0.1" in answer.json()["detail"]


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:9", "http://["])
def test_another_site_is_refused(client: TestClient, origin: str) -> None:
    answer = client.post("/search", data={"text": "a"}, headers={"origin": origin})
    assert answer.status_code == 403
    own = client.post("/search", data={"text": "a"}, headers={"origin": "http://127.0.0.1:8000"})
    assert own.status_code == 200


@pytest.mark.parametrize("path", ["/indexes", "/image/1", "/thumbnail/1", "/openapi.json", "/nothing"])
def test_without_the_token_nothing_is_told(guarded: TestClient, path: str) -> None:
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"cookie": "miniclip=x"},
    ):
        assert guarded.get(path, headers=headers).status_code == 401
    odd = [(b"authorization", "Bearer \xe9".encode("latin-1")), (b"cookie", b"miniclip=\xff; =;;")]
    assert guarded.get(path, headers=odd).status_code == 401
    right = {"authorization": f"Bearer {TOKEN}", "host": "my.machine"}
    assert guarded.get(path, headers=right).status_code == (404 if path == "/nothing" else 200)


def test_the_token_is_typed_once(guarded: TestClient) -> None:
    assert guarded.get("/").status_code == 200
    assert guarded.post("/login", data={"token": "wrong"}).status_code == 401
    assert guarded.get("/indexes").status_code == 401
    answer = guarded.post("/login", data={"token": TOKEN})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie
    assert guarded.get("/indexes").status_code == 200


def test_an_upload_may_not_be_huge(guarded: TestClient) -> None:
    headers = {"authorization": f"Bearer {TOKEN}"}
    for size in (1001, 100_000):
        answer = guarded.post("/search", files={"image": bytes(size)}, headers=headers)
        assert answer.status_code == 413 and "Scale" in answer.json()["detail"]
    assert guarded.post("/search", files={"image": png()}, headers=headers).status_code == 200


def test_an_upload_of_unknown_length_may_not_be_huge(guarded: TestClient) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield bytes(10_000)

    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "multipart/form-data; boundary=x"}
    assert guarded.post("/search", content=chunks(), headers=headers).status_code == 413


@pytest.mark.parametrize("path", ["/", "/page.js", "/page.css", "/healthz", "/image/1", "/nothing"])
def test_every_answer_is_strict(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_asks_no_other_host(client: TestClient) -> None:
    for path in ("/", "/page.js", "/page.css"):
        text = client.get(path).text
        assert "http:" not in text and "https:" not in text
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text
