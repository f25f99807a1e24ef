"""The API: what it finds, and the status of whatever is wrong."""

import io
import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo
from starlette.testclient import TestClient

from miniclip.deploy.index import Index
from miniclip.deploy.server import Limits, Searcher
from miniclip.deploy.server.running import PromptConnection, listen
from tests.data.conftest import lying
from tests.deploy.index.conftest import save_photo
from tests.deploy.index.projection import ProjectionModel, embed
from tests.deploy.server.conftest import Serve, bomb, png


def test_words_find_what_the_index_finds(client: TestClient, searchers: list[Searcher]) -> None:
    query = {"text": "a dog", "index": "second"}
    answer = client.post("/search", data={**query, "k": 3}).json()
    expected = searchers[1].index.search(searchers[1].model.encode_text(["a dog"]), k=3)
    assert answer["index"] == "second" and answer["model"] == "projection 1"
    assert [result["id"] for result in answer["results"]] == [entry.id for entry in expected.entries[0]]
    scores = [result["score"] for result in answer["results"]]
    np.testing.assert_allclose(scores, expected.scores[0], atol=1e-6)

    lowest = client.post("/search", data={**query, "threshold": scores[1] - 1e-6}).json()
    assert [result["score"] for result in lowest["results"]] == pytest.approx(scores[:2])


def test_words_that_are_not_read_to_their_end_are_told(client: TestClient) -> None:
    for path in ("/search", "/embed"):
        answer = client.post(path, data={"text": "red " * 200}).json()
        assert answer["note"].startswith("The words are more")
        assert client.post(path, data={"text": "red"}).json()["note"] is None


def test_an_image_finds_itself(client: TestClient, album: Path) -> None:
    content = (album / "photos" / "2.png").read_bytes()
    for name in ("first", "second"):
        answer = client.post("/search", files={"image": content}, data={"index": name, "k": 1}).json()
        (result,) = answer["results"]
        assert result["path"].endswith("2.png") and result["score"] == pytest.approx(1, abs=1e-3)

        # of an entry by its vector, and of one of the other index by its file
        like = {"like": result["id"], "like_index": name, "k": 1}
        for other in ("first", "second"):
            found = client.post("/search", data={**like, "index": other}).json()["results"]
            assert found[0]["path"].endswith("2.png")


def test_a_rotated_photo_is_seen_upright(client: TestClient, album: Path) -> None:
    upright = album / "photos" / "2.png"
    rotated = lying(Image.open(upright))
    contents = (upright.read_bytes(), rotated)
    vectors = [client.post("/embed", files={"image": one}).json()["vector"] for one in contents]
    assert vectors[0] == vectors[1]


@pytest.mark.parametrize("other", [ProjectionModel(seed=1), ProjectionModel(embed_dim=12)])
def test_an_index_that_another_model_made_anew_is_told(
    other: ProjectionModel, serve: Serve, album: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    embed(folder, album / "photos")
    client = serve(searchers=[Searcher("index", Index(folder, in_memory=True), ProjectionModel())])
    assert client.post("/search", data={"text": "a dog"}).status_code == 200

    shutil.rmtree(folder)
    embed(folder, album / "photos", model=other)
    for query in ({"text": "a dog"}, {"like": "1"}):
        answer = client.post("/search", data=query)
        assert answer.status_code == 503
        assert "was made by the model" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ({"data": {"text": "a dog", "treshold": "0.9"}}, 422, "treshold: there is no such field here"),
        ({"data": {"text": "a dog"}, "params": {"k": "1"}}, 422, "k: is read from a form, not from the"),
        ({"data": {"text": "a dog"}, "params": {"x": "1"}}, 422, "x: there is no such field here"),
        ({"data": {"text": ["a dog", "a cat"]}}, 422, "text: is given 2 times"),
        ({"data": {"text": "a dog", "image": "photo.jpg"}}, 422, "-F image=@FILE"),
        ({"json": {"text": "a dog"}}, 415, "not application/json"),
    ],
)
def test_what_no_field_reads_is_told(client: TestClient, request_: dict, status: int, said: str) -> None:
    answer = client.post("/search", **request_)
    assert answer.status_code == status and said in answer.json()["detail"]


def test_a_misspelt_index_of_an_image_is_told(client: TestClient) -> None:
    for path in ("/image/1", "/thumbnail/1"):
        assert client.get(path, params={"indx": "second"}).status_code == 422
        assert client.get(path, params={"index": "second"}).status_code == 200


def test_a_mixed_query_is_the_mean(client: TestClient, album: Path, searchers: list[Searcher]) -> None:
    content = (album / "photos" / "0.png").read_bytes()
    answer = client.post("/search", files={"image": content}, data={"text": "night", "k": 1}).json()
    image, text = searchers[0].vector_of_image(content), searchers[0].vector_of_text("night")
    query = (image + text) / np.linalg.norm(image + text)
    found = searchers[0].index.search(query[None], k=1)
    assert answer["results"][0]["id"] == found.entries[0][0].id
    assert answer["results"][0]["score"] == pytest.approx(float(found.scores[0][0]), abs=1e-6)


def test_it_embeds(client: TestClient, searchers: list[Searcher]) -> None:
    words = client.post("/embed", data={"text": "a dog"}).json()["vector"]
    np.testing.assert_allclose(words, searchers[0].vector_of_text("a dog"), atol=1e-6)
    image = client.post("/embed", files={"image": png()}).json()["vector"]
    np.testing.assert_allclose(image, searchers[0].vector_of_image(png()), atol=1e-6)
    assert client.post("/embed", data={"text": "a"}, files={"image": png()}).status_code == 422


def test_it_tells_of_itself(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    first, second = client.get("/indexes").json()
    assert first == {"name": "first", "model": "projection 0", "num_images": 5}
    assert second["name"] == "second"
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/search", "/embed", "/healthz", "/image/{id}", "/thumbnail/{id}"} <= paths.keys()


@pytest.mark.parametrize(
    ("data", "status", "told"),
    [
        ({}, 422, "Search for what?"),
        ({"text": "   "}, 422, "text: is empty"),
        ({"text": "x" * 1001}, 422, "text: String should have at most 1000"),
        ({"text": "a", "k": "0"}, 422, "k: "),
        ({"text": "a", "k": "201"}, 422, "k: "),
        ({"text": "a", "threshold": "nan"}, 422, "threshold: "),
        ({"text": "a", "index": "third"}, 404, "no index 'third'; there is: first, second"),
        ({"like": "999"}, 404, "no image 999"),
        ({"like": str(2**63)}, 422, "like: "),
        ({"image": "no file"}, 422, "image: "),
    ],
)
def test_a_wrong_query_is_told_in_one_line(
    client: TestClient, data: dict[str, str], status: int, told: str
) -> None:
    answer = client.post("/search", data=data)
    assert answer.status_code == status
    assert told in answer.json()["detail"] and "\n" not in answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image"),
        (b"", "is no image"),
        (png()[:45], "of the query"),
        (bomb(), "pixels"),
    ],
    ids=["svg", "eps", "empty", "cut off", "bomb"],
)
def test_what_is_no_image_is_refused(client: TestClient, content: bytes, told: str) -> None:
    answer = client.post("/search", files={"image": ("photo.png", content)})
    assert answer.status_code == 400
    assert told in answer.json()["detail"] and "\n" not in answer.json()["detail"]


def test_images_go_out_as_images(client: TestClient, album: Path) -> None:
    (result,) = client.post("/search", data={"like": 1, "k": 1}).json()["results"]
    whole, small = client.get("/image/1"), client.get("/thumbnail/1?index=first")
    assert whole.content == Path(result["path"]).read_bytes()
    assert whole.headers["content-type"] == "image/png"
    assert small.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).format == "JPEG"
    assert whole.headers["x-content-type-options"] == "nosniff"


def test_a_browser_asks_whether_an_image_is_still_the_same(client: TestClient) -> None:
    for place in ("/image/1", "/thumbnail/1?index=first"):
        answer = client.get(place)
        assert answer.headers["cache-control"] == "private, no-cache"
        same = client.get(place, headers={"If-None-Match": answer.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        other = client.get(place.replace("1", "2", 1), headers={"If-None-Match": answer.headers["etag"]})
        assert other.status_code == 200 and other.headers["etag"] != answer.headers["etag"]


def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miniclip.deploy.server.running.FIRST_REQUEST_SECONDS", 0.2)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(FastAPI(), http=PromptConnection, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    with socket.create_connection(listener.getsockname(), timeout=20) as silent:
        assert silent.recv(1) == b""
    with socket.create_connection(listener.getsockname(), timeout=20) as asks:
        asks.sendall(b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asks.recv(12) == b"HTTP/1.1 404"
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def noise(seed: int, size: tuple[int, int]) -> Image.Image:
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def photo_that_tells(path: Path) -> None:
    """Write a photo that lies on its side, and says where it was taken, with a comment."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (48.0, 8.0, 0.0)
    noise(1, (40, 24)).save(path, exif=exif, comment=b"secret")


def drawing_that_tells(path: Path) -> None:
    """Write a PNG with a text behind its pixels."""
    texts = PngInfo()
    texts.add(b"tEXt", b"Comment\0secret", after_idat=True)
    noise(1, (24, 40)).save(path, pnginfo=texts)


@pytest.mark.parametrize(("name", "save"), [("a.jpg", photo_that_tells), ("a.png", drawing_that_tells)])
def test_where_a_photo_was_taken_stays_here(
    name: str, save: Callable[[Path], None], serve: Serve, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    save(tmp_path / "photos" / name)
    embed(tmp_path / "index", tmp_path / "photos")
    client = serve(searchers=[Searcher("index", Index(tmp_path / "index"), ProjectionModel())])

    for kind in ("image", "thumbnail"):
        answer = client.get(f"/{kind}/1")
        assert answer.headers["content-type"] == "image/jpeg" and b"secret" not in answer.content
        image = Image.open(io.BytesIO(answer.content))
        assert not image.getexif() and image.size == (24, 40)


def test_a_photo_that_tells_nothing_goes_out_as_it_is(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, form in enumerate(("jpg", "gif", "webp")):
        noise(number, (24, 40)).save(tmp_path / "photos" / f"{number}.{form}")
    embed(tmp_path / "index", tmp_path / "photos")
    client = serve(searchers=[Searcher("index", Index(tmp_path / "index"), ProjectionModel())])

    files = {path.read_bytes() for path in (tmp_path / "photos").iterdir()}
    assert {client.get(f"/image/{number}").content for number in (1, 2, 3)} == files


@pytest.mark.parametrize(
    "path",
    ["/image/../private.png", "/image/..%2f..%2fprivate.png", "/image/%2Fetc%2Fpasswd", "/page/../app.py"],
)
def test_nothing_else_can_be_opened(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (404, 422)


def test_a_file_that_is_no_image_any_more_stays_here(serve: Serve, tmp_path: Path) -> None:
    path = save_photo(tmp_path / "photos" / "a.png", 1)
    embed(tmp_path / "index", tmp_path / "photos")
    client = serve(searchers=[Searcher("index", Index(tmp_path / "index"), ProjectionModel())])

    path.write_text("<script>alert(1)</script>")
    for kind in ("image", "thumbnail"):
        answer = client.get(f"/{kind}/1")
        assert answer.status_code == 404 and "is no image" in answer.json()["detail"]
    path.unlink()
    assert "is missing" in client.get("/image/1").json()["detail"]
    assert client.get("/image/2").status_code == 404


class Waiting(ProjectionModel):
    """A model that takes its time until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go = threading.Event()

    def encode_text(self, texts: list[str]) -> np.ndarray:  # type: ignore[override]
        self.may_go.wait(10)
        return super().encode_text(texts)


def test_a_request_that_takes_too_long_is_given_up(serve: Serve, searchers: list[Searcher]) -> None:
    model = Waiting()
    slow = Searcher("slow", searchers[0].index, model)
    client = serve(searchers=[slow], limits=Limits(seconds=0.1, num_workers=1))
    for _ in range(2):  # the second finds the only worker busy
        answer = client.post("/search", data={"text": "a"})
        assert answer.status_code == 503 and "more than 0.1 seconds" in answer.json()["detail"]
    assert client.get("/healthz").status_code == 200
    model.may_go.set()
    assert client.post("/search", data={"text": "a"}).status_code == 200


class Weighed(ProjectionModel):
    """A model that counts how often its fingerprint is asked for."""

    num_asked = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "fingerprint":
            self.num_asked += 1
        return super().__getattribute__(name)


def test_queries_do_not_wait_for_the_models_fingerprint(searchers: list[Searcher]) -> None:
    model = Weighed()
    searcher = Searcher("index", searchers[0].index, model)
    for _ in range(3):
        searcher.search([searcher.vector_of_text("a")], k=1, threshold=None)
    assert model.num_asked == 1


def test_a_vector_that_is_not_finite_is_told(serve: Serve, searchers: list[Searcher]) -> None:
    model = ProjectionModel()
    model.weights = np.full_like(model.weights, np.nan)
    client = serve(searchers=[Searcher("index", searchers[0].index, model)])
    answer = client.post("/search", data={"text": "a"})
    assert answer.status_code == 422 and "no finite vector" in answer.json()["detail"]


texts = st.text(max_size=40)
fields = st.sampled_from(["text", "k", "threshold", "like", "like_index", "index", "image", "token", "x"])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["/search", "/embed", "/login"]),
    data=st.dictionaries(fields, texts | st.integers().map(str) | st.floats().map(str), max_size=5),
    image=st.none() | st.binary(max_size=60) | st.binary(max_size=20).map(lambda end: png()[:50] + end),
)
def test_no_form_breaks_it(
    client: TestClient, path: str, data: dict[str, str], image: bytes | None
) -> None:
    files = None if image is None else {"image": ("a.png", image)}
    answer = client.post(path, data=data, files=files)  # which raises what the server did not expect
    assert answer.status_code < 500
    assert answer.status_code < 300 or "\n" not in answer.json()["detail"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.binary(max_size=200),
    kind=st.sampled_from(
        [
            "application/json",
            "multipart/form-data; boundary=x",
            "application/x-www-form-urlencoded",
            "",
            "x",
        ]
    ),
    number=st.integers() | st.text("./%0\\", max_size=8),
)
def test_no_bytes_break_it(client: TestClient, body: bytes, kind: str, number: int | str) -> None:
    assert client.post("/search", content=body, headers={"content-type": kind}).status_code < 500
    assert client.get(f"/thumbnail/{number}").status_code < 500
