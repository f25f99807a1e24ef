"""The application: the API and the page."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse

from miniclip import __version__
from miniclip.deploy.index import Entry
from miniclip.deploy.server.answers import Embedding, Health, IndexFacts, Problem, Result, Results
from miniclip.deploy.server.guard import COOKIE, Access, Guard, Limits, too_large
from miniclip.deploy.server.images import Picture, original, thumbnail
from miniclip.deploy.server.searcher import NoFiniteVector, Searcher
from miniclip.errors import BrokenImage, UserError

MAX_K = 200
MAX_TEXT = 1_000
"""Characters."""

MAX_ID = 2**63 - 1
"""SQLite's largest integer."""

CUT = "The words are more than the model reads; it did not see the end of them."

CACHE = "private, no-cache"
"""Of images, which a browser asks for again by their tag: another index may have another one of this id."""

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
"""Kinds of bodies that fields are read from."""

PAGE = Path(__file__).parent / "page"

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem} for status in (400, 401, 403, 404, 413, 415, 422, 503)
}

Text = Annotated[str | None, Form(max_length=MAX_TEXT, description="words to search for")]
Upload = Annotated[UploadFile | None, Form(description="an image's file")]
Name = Annotated[str | None, Form(description="name of the index; the first where none is given")]
NameInQuery = Annotated[str | None, Query(description="name of the index")]
Id = Annotated[int, InPath(ge=1, le=MAX_ID)]
Result_ = TypeVar("Result_")

router = APIRouter(responses=PROBLEMS)


async def _check_fields(request: Request) -> None:
    """Refuse what no field reads: an answer to half a question looks like one to all of it."""
    kind = request.headers.get("content-type", "")
    if request.method == "POST" and kind and not kind.lower().startswith(FORMS):
        raise HTTPException(415, f"The fields of a form are read, not {kind[:100]}. With curl: -F text=...")

    own = request.scope["route"].dependant
    in_address = [field.alias for field in own.query_params]
    in_form = [field.alias for field in own.body_params]
    for name in request.query_params:
        if name in in_form and name not in in_address:
            raise HTTPException(
                422, f"{name}: is read from a form, not from the address. With curl: -F {name}=..."
            )
    _check_names(request.query_params.multi_items(), in_address)
    form = (await request.form()).multi_items()
    _check_names(form, in_form)
    if any(name == "image" and value and isinstance(value, str) for name, value in form):
        raise HTTPException(422, "image: is no file. With curl: -F image=@FILE")


def _check_names(given: list[tuple[str, Any]], known: list[str]) -> None:
    """Hold the names of fields against those that are read."""
    names = [name for name, _ in given]
    for name in names:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise HTTPException(422, f"{name[:100]}: there is no such field here; there is: {listed}.")
        if names.count(name) > 1:
            raise HTTPException(422, f"{name}: is given {names.count(name)} times. Give it once.")


CHECKED = [Depends(_check_fields)]


def create_app(
    searchers: Sequence[Searcher], *, access: Access | None = None, limits: Limits | None = None
) -> FastAPI:
    """The application that serves indexes.

    Args:
        access: who may ask; None is this machine only, without a token.
    """
    access, limits = access or Access(), limits or Limits()
    app = FastAPI(
        title="MiniCLIP",
        version=__version__,
        description="Search indexes of images by words, by images, or by both.",
        docs_url=None,  # FastAPI's pages load their scripts from another host
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.searchers = {searcher.name: searcher for searcher in searchers}
    app.state.access = access
    app.state.limits = limits
    app.state.threads = ThreadPoolExecutor(limits.num_workers, thread_name_prefix="search")

    app.include_router(router)
    app.add_middleware(Guard, access=access, limits=limits)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UserError, _refused)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.threads.shutdown(wait=False, cancel_futures=True)


@router.get("/healthz")
async def healthz() -> Health:
    """Whether the server is up."""
    return Health()


@router.get("/indexes")
async def indexes(request: Request) -> list[IndexFacts]:
    """The indexes that are served."""
    searchers = request.app.state.searchers.values()
    return await _in_thread(request, lambda: [_facts(searcher) for searcher in searchers])


@router.post("/search", dependencies=CHECKED)
async def search(
    request: Request,
    text: Text = None,
    image: Upload = None,
    like: Annotated[int | None, Form(ge=1, le=MAX_ID, description="id of an image of an index")] = None,
    like_index: Annotated[str | None, Form(description="that index; `index` where none is given")] = None,
    index: Name = None,
    k: Annotated[int, Form(ge=1, le=MAX_K, description="the most results")] = 24,
    threshold: Annotated[float | None, Form(ge=-1, le=1, allow_inf_nan=False)] = None,
) -> Results:
    """Search by words, an image, an image of an index, or the mean of several of these."""
    searcher = _searcher(request, index)
    liked = None if like is None else (_searcher(request, like_index or searcher.name), like)
    content = await _content(request, image)
    _check_query(text, content, liked)

    def work() -> Results:
        start = time.perf_counter()
        vectors = _vectors(searcher, text, content)
        if liked is not None:
            vectors.append(_vector_like(searcher, *liked))
        found = searcher.search(vectors, k=k, threshold=threshold)
        results = [
            _result(entry, score) for entry, score in zip(found.entries[0], found.scores[0], strict=True)
        ]
        return Results(
            index=searcher.name,
            model=searcher.model.name,
            seconds=time.perf_counter() - start,
            note=_note(searcher, text),
            results=results,
        )

    return await _in_thread(request, work)


@router.post("/embed", dependencies=CHECKED)
async def embed(request: Request, text: Text = None, image: Upload = None, index: Name = None) -> Embedding:
    """The vector of words or of an image, by the model of an index."""
    searcher = _searcher(request, index)
    content = await _content(request, image)
    _check_query(text, content, None)
    if text is not None and content is not None:
        raise HTTPException(422, "Give words or an image, not both.")

    def work() -> Embedding:
        (vector,) = _vectors(searcher, text, content)
        return Embedding(
            index=searcher.name,
            model=searcher.model.name,
            note=_note(searcher, text),
            vector=vector.tolist(),
        )

    return await _in_thread(request, work)


@router.get("/image/{id}", response_class=Response, dependencies=CHECKED)
async def image(request: Request, id: Id, index: NameInQuery = None) -> Response:
    """An image of an index."""
    return await _picture(request, id, index, original)


@router.get("/thumbnail/{id}", response_class=Response, dependencies=CHECKED)
async def small_image(request: Request, id: Id, index: NameInQuery = None) -> Response:
    """A small JPEG of an image of an index."""
    return await _picture(request, id, index, thumbnail)


@router.post("/login", status_code=204)
async def login(request: Request, token: Annotated[str, Form(max_length=MAX_TEXT)]) -> Response:
    """Give the token once, for a cookie that stands for it."""
    access: Access = request.app.state.access
    if not access.is_token(token):
        raise HTTPException(401, "The token is wrong.")
    response = Response(status_code=204)
    response.set_cookie(COOKIE, access.cookie(), httponly=True, samesite="strict")
    return response


@router.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(PAGE / "page.html")


@router.get("/page.css", include_in_schema=False)
async def style() -> FileResponse:
    return FileResponse(PAGE / "page.css", media_type="text/css")


@router.get("/page.js", include_in_schema=False)
async def script() -> FileResponse:
    return FileResponse(PAGE / "page.js", media_type="text/javascript")


def _searcher(request: Request, name: str | None) -> Searcher:
    """The index of a name; the first for None."""
    searchers: dict[str, Searcher] = request.app.state.searchers
    if name is None:
        return next(iter(searchers.values()))
    if name not in searchers:
        raise HTTPException(404, f"There is no index {name[:100]!r}; there is: {', '.join(searchers)}.")
    return searchers[name]


async def _content(request: Request, upload: UploadFile | None) -> bytes | None:
    """The bytes of an upload, as far as they are allowed."""
    if upload is None:
        return None
    limits: Limits = request.app.state.limits
    content = await upload.read(limits.upload_bytes + 1)
    if len(content) > limits.upload_bytes:
        raise HTTPException(413, too_large(limits))
    return content


def _check_query(text: str | None, content: bytes | None, liked: object) -> None:
    if text is not None and not text.strip():
        raise HTTPException(422, "text: is empty. Give it words.")
    if text is None and content is None and liked is None:
        raise HTTPException(422, "Search for what? Give text, image or like.")


def _vectors(searcher: Searcher, text: str | None, content: bytes | None) -> list[np.ndarray]:
    vectors = []
    if text is not None:
        vectors.append(searcher.vector_of_text(text))
    if content is not None:
        vectors.append(searcher.vector_of_image(content))
    return vectors


def _note(searcher: Searcher, text: str | None) -> str | None:
    """What of the words was not looked at, if anything."""
    return CUT if text is not None and searcher.is_too_long(text) else None


def _vector_like(searcher: Searcher, liked: Searcher, number: int) -> np.ndarray:
    """The vector of an image of an index, by the model of this one or another."""
    if searcher is not liked:
        return searcher.vector_of_image(_content_of(_entry(liked, number)))
    vector = searcher.index.vector(number)
    if vector is None:
        raise HTTPException(404, f"The index {liked.name} has no image {number}.")
    return vector


def _entry(searcher: Searcher, number: int) -> Entry:
    entry = searcher.index.entry(number)
    if entry is None:
        raise HTTPException(404, f"The index {searcher.name} has no image {number}.")
    return entry


def _content_of(entry: Entry) -> bytes:
    try:
        return entry.content()
    except BrokenImage as error:
        raise HTTPException(404, _shown(error)) from None


async def _picture(
    request: Request, number: int, name: str | None, shape: Callable[[bytes, str], Picture]
) -> Response:
    """An image of an index in some shape; nothing but entries of the index is ever opened."""
    searcher = _searcher(request, name)

    def work() -> Response:
        entry = _entry(searcher, number)
        content = _content_of(entry)
        tag = f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"'
        headers = {"Cache-Control": CACHE, "ETag": tag}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        try:
            picture = shape(content, str(entry))
        except BrokenImage as error:  # it was an image when it was embedded
            raise HTTPException(404, _shown(error)) from None
        return Response(picture.content, media_type=picture.media_type, headers=headers)

    return await _in_thread(request, work)


async def _in_thread(request: Request, work: Callable[[], Result_]) -> Result_:
    """The result of work that one of few threads does, in turn; work that nobody waits for is dropped."""
    return await asyncio.get_running_loop().run_in_executor(request.app.state.threads, work)


def _facts(searcher: Searcher) -> IndexFacts:
    return IndexFacts(name=searcher.name, model=searcher.model.name, num_images=len(searcher.index))


def _result(entry: Entry, score: float) -> Result:
    return Result(
        id=entry.id, score=float(score), path=_shown(entry.path), row=entry.row, title=entry.title
    )


def _shown(what: object) -> str:
    """A text that may hold the name of a file, of which not all are text."""
    return os.fsencode(str(what)).decode("utf-8", "replace")


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Tell the first setting that is wrong."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}."}, 422)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """Tell an image that is none, a query without a vector, or an index that cannot be read."""
    statuses = {BrokenImage: 400, NoFiniteVector: 422}
    return JSONResponse({"detail": _shown(error)}, statuses.get(type(error), 503))
