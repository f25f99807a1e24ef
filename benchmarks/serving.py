"""Time of a query: from the start of `miniclip search`, and in a running server, alone and with 50 clients.

    python -m benchmarks.serving MODEL [NUM_IMAGES]

The index holds NUM_IMAGES (100,000) random vectors of the model's size. The words are those of the model's
own data set or any: what they find is not asked here.
"""

import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.command_line import arguments_of
from benchmarks.timing import conditions
from miniclip.commands.models import load_model
from miniclip.deploy.index import open_writer
from miniclip.deploy.index.sources import SourceImage
from miniclip.deploy.index.writer import Encoded

NUM_IMAGES = 100_000
NUM_QUERIES = 500
"""Of one client, whose 99th percentile is told."""

NUM_CLIENTS = 50
SECONDS = 60.0
WARMUP = 10.0
"""Seconds after which memory should not grow."""

MINICLIP = str(Path(sys.executable).with_name("miniclip"))

STARTS = 5
QUERIES = ("a dog in the snow", "two red cars", "a small house", "somebody with an umbrella", "green")


class Load(NamedTuple):
    """What many clients met."""

    num_answers: int
    num_errors: int
    seconds: list[float]
    memory_mb: list[float]


def make_index(model_path: Path, folder: Path, num_images: int) -> None:
    """An index of random vectors, whose images are nowhere."""
    model = load_model(model_path)
    vectors = np.random.default_rng(0).standard_normal((num_images, model.embed_dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with open_writer(folder, model, model_path=model_path) as writer:
        source = writer.entries.source(folder, kind="files", root=folder, image_column=None)
        for start in range(0, num_images, 5_000):
            rows = range(start, min(start + 5_000, num_images))
            writer.put(
                source,
                [
                    Encoded(SourceImage(f"{row}.jpg", 1, 1), row.to_bytes(16, "big"), vectors[row])
                    for row in rows
                ],
                broken=[],
            )


def seconds_of_search(folder: Path) -> float:
    """Wall time of the command, Python's start included."""
    command = [MINICLIP, "search", str(folder), QUERIES[0]]
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


@contextmanager
def running_server(folder: Path) -> Iterator[tuple[str, int]]:
    """The server's address and the number of its process."""
    command = [MINICLIP, "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[0], process.pid
    finally:
        process.terminate()
        process.wait()


def ask(address: str, text: str) -> float:
    """Seconds until the answer to a query."""
    body = urllib.parse.urlencode({"text": text, "k": 10}).encode()
    started = time.perf_counter()
    with urllib.request.urlopen(f"{address}search", body, timeout=30) as answer:
        answer.read()
    return time.perf_counter() - started


def resident_mb(pid: int) -> float:
    """Memory that a process has in use; Linux only."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def under_load(address: str, pid: int) -> Load:
    """Many clients, each with its next query as soon as it has an answer."""
    load = Load(0, 0, [], [])
    errors: list[Exception] = []
    end = time.perf_counter() + SECONDS

    def client(number: int) -> None:
        while time.perf_counter() < end:
            try:
                load.seconds.append(ask(address, QUERIES[number % len(QUERIES)]))
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    while time.perf_counter() < end:
        time.sleep(1)
        load.memory_mb.append(resident_mb(pid))
    for thread in threads:
        thread.join()
    return load._replace(num_answers=len(load.seconds), num_errors=len(errors))


def main() -> None:
    arguments = arguments_of(__doc__, "model", num_images=NUM_IMAGES)
    model_path, num_images = arguments.model, arguments.num_images
    print(conditions("torch", "onnxruntime", "fastapi", "uvicorn"))

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "index"
        make_index(model_path, folder, num_images)
        starts = [seconds_of_search(folder) for _ in range(STARTS)]
        print(f"miniclip search, from start to answer: {statistics.median(starts):.2f} s")

        with running_server(folder) as (address, pid):
            alone = np.array([ask(address, QUERIES[i % len(QUERIES)]) for i in range(NUM_QUERIES)]) * 1e3
            print(
                f"one client, {num_images:,} vectors: median {np.median(alone):.1f} ms, "
                f"p99 {np.percentile(alone, 99):.1f} ms"
            )
            load = under_load(address, pid)

    many = np.array(load.seconds) * 1e3
    print(
        f"{NUM_CLIENTS} clients, {SECONDS:.0f} s: {load.num_answers:,} answers, {load.num_errors} errors, "
        f"median {np.median(many):.0f} ms, p99 {np.percentile(many, 99):.0f} ms; memory "
        f"{load.memory_mb[int(WARMUP)]:.0f} MB after {WARMUP:.0f} s, {load.memory_mb[-1]:.0f} MB at the end"
    )


if __name__ == "__main__":
    main()
