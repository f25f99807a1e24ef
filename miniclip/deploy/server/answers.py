"""What the API answers, as its OpenAPI description tells it."""

from pydantic import BaseModel


class Health(BaseModel):
    """The server is up."""

    status: str = "ok"


class IndexFacts(BaseModel):
    """An index that is served."""

    name: str
    model: str
    num_images: int


class Result(BaseModel):
    """An image that is found: its `id` for /image and /thumbnail, and its cosine with the query."""

    id: int
    score: float
    path: str
    row: int | None
    title: str | None


class Results(BaseModel):
    """What a search finds, best first; `note` tells what of the query was not searched for."""

    index: str
    model: str
    seconds: float
    note: str | None
    results: list[Result]


class Embedding(BaseModel):
    """A vector of length 1; `note` tells what of the words it does not stand for."""

    index: str
    model: str
    note: str | None
    vector: list[float]


class Problem(BaseModel):
    """Why a request is refused, in one line."""

    detail: str
