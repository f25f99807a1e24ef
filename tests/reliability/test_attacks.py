"""The attack corpus: what strangers can put into files executes nothing, and opens nothing outside.

Every attack ends in one line, whatever it is about: no traceback, no wait, no gigabytes.
"""

import copy
import csv
import html.parser
import io
import json
import os
import pickle
import re
import shutil
import sqlite3
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from miniclip import MiniCLIP
from miniclip.commands.models import load_model_of_index
from miniclip.config.restore import restore
from miniclip.data.image_content import decode, read_content
from miniclip.data.sources.image_names import find_images
from miniclip.data.sources.json_table import read_json_table
from miniclip.deploy.index import Index
from miniclip.errors import BrokenImage, UserError
from miniclip.files import within
from miniclip.pretrained.folder import load_folder
from miniclip.pretrained.loading import load_run
from miniclip.report.formats import as_csv, as_html, as_markdown
from miniclip.report.runs import Failure, read_collection
from miniclip.report.sections import Section
from miniclip.runs.loggers.wandb_logger import _retrieval_rows
from miniclip.runs.run_files import RunFiles
from miniclip.runs.sweep import COLUMNS, Job, Sweep
from miniclip.tokenizer_file import encoded, tokenizer_of
from miniclip.training.checkpoint import load_checkpoint
from tests.bundles import bundle_of
from tests.config.test_restore import ATTACKS, Attack
from tests.conftest import ROOT
from tests.deploy.index.projection import embed
from tests.report.conftest import foreign_run

OF_A_RUN = ROOT / "tests" / "golden" / "run"

EXECUTES = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.mkdir"}
"""Events of Python that an attack would cause."""

OPENS = {"open", "os.listdir", "os.scandir", "os.remove", "os.rename", "sqlite3.connect"}

Node = dict[str, Any]


class Watch:
    """What this process executes and opens below a private folder while an attack is tried.

    Attributes:
        private: a folder that no attack may look into.
        tried, executed, opened: attacks, and what came of them.
    """

    def __init__(self, private: Path):
        self.private = private
        self.is_on = False
        self.tried = 0
        self.executed: list[str] = []
        self.opened: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in EXECUTES and (event != "os.mkdir" or str(self.private) in str(arguments[0])):
            self.executed.append(f"{event} {arguments[:1]}")
        if event in OPENS and isinstance(arguments[0], str | bytes):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if path.startswith(str(self.private)):
                self.opened.append(path)

    def refused(self, action: Callable[[], object]) -> str:
        """Try an attack that has to be refused. Returns the line that says so."""
        self.tried += 1
        self.is_on = True
        try:
            with pytest.raises((UserError, ValueError)) as caught:
                action()
        finally:
            self.is_on = False

        told = str(caught.value)
        assert isinstance(caught.value, UserError) or not isinstance(caught.value, UnicodeError)
        assert "\n" not in told and "\x1b" not in told and len(told) < 1_000, told
        assert not self.executed and not self.opened
        assert not (self.private / "canary").exists()
        return told


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    private = tmp_path_factory.mktemp("private").resolve()
    Image.new("RGB", (4, 4)).save(private / "secret.jpg")
    Image.new("RGB", (4, 4)).save(private / "secret.png")
    found = Watch(private)
    yield found
    numbers = f"{len(found.executed)} executed, {len(found.opened)} opened outside"
    print(f"\n{found.tried} attacks: {numbers}")
    found.is_on = False


@pytest.fixture(scope="module")
def content() -> Node:
    whole = torch.load(OF_A_RUN / "checkpoints" / "last.pt", weights_only=True)
    return {**whole, "optimizer": {"state": {}, "param_groups": []}}


# ---------------------------------------------------------------------------------------------- pickles


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path, way: str = "os.mkdir"):
        self.path = path
        self.way = way

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self.way == "eval":
            return eval, (f"__import__('os').mkdir({str(self.path)!r})",)
        if self.way == "system":
            return os.system, (f"mkdir {self.path}",)
        if self.way == "open":
            return open, (str(self.path), "w")
        return os.mkdir, (str(self.path),)


def zipped(data: bytes, *, name: str = "archive/data.pkl", compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def saved(value: Any, **settings: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **settings)
    return file.getvalue()


def tarred(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("pickle", "tensors", "storages", "sys_info"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def scripted(path: Path) -> bytes:
    """TorchScript, which brings code of its own."""
    evil = pickle.dumps(Evil(path))
    return zipped(evil, name="archive/constants.pkl")


def by_opcode(path: Path) -> bytes:
    """The oldest protocol, by hand, of a name that builtins would resolve."""
    return f"cposix\nmkdir\n(V{path}\ntR.".encode()


PICKLES: dict[str, Callable[[Path], bytes]] = {
    "in torch's zip": lambda path: saved(Evil(path)),
    "in a part of a checkpoint": lambda path: saved({"format": 2, "config": {"a": [Evil(path)]}}),
    "as a key": lambda path: saved({"format": 2, "model": {(1, Evil(path, "open")): 1}}),
    "in torch's legacy form": lambda path: saved(Evil(path), _use_new_zipfile_serialization=False),
    "plain": lambda path: pickle.dumps(Evil(path)),
    "plain, protocol 0": lambda path: pickle.dumps(Evil(path), protocol=0),
    "by hand": by_opcode,
    "by hand in a zip": lambda path: zipped(by_opcode(path)),
    "eval": lambda path: saved(Evil(path, "eval")),
    "a shell": lambda path: saved(Evil(path, "system")),
    "in a tar": lambda path: tarred(pickle.dumps(Evil(path))),
    "TorchScript": scripted,
    "packed": lambda path: zipped(pickle.dumps(Evil(path)), compression=zipfile.ZIP_DEFLATED),
    "a zip bomb": lambda path: zipped(bytes(10**7), compression=zipfile.ZIP_DEFLATED),
    "nested a hundred thousand times": lambda path: zipped(
        b"\x80\x02" + b"]" * 10**5 + b"a" * (10**5 - 1) + b"."
    ),
    "a text of a terabyte": lambda path: zipped(b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"."),
}


@pytest.mark.parametrize("name", PICKLES)
def test_no_pickle_executes(name: str, watch: Watch, tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    path.write_bytes(PICKLES[name](watch.private / "canary"))
    told = watch.refused(lambda: load_checkpoint(path))
    assert "evil.pt" in told and "weights_only" not in told


def test_the_payloads_work(tmp_path: Path) -> None:
    for number, way in enumerate(("os.mkdir", "eval", "system", "open")):
        pickle.loads(pickle.dumps(Evil(tmp_path / str(number), way)))
    assert len(list(tmp_path.iterdir())) == 4


# ---------------------------------------------------------------------------------------------- configs


@pytest.mark.parametrize("name", ATTACKS)
def test_no_config_executes(name: str, watch: Watch, content: Node, tmp_path: Path) -> None:
    assert len(ATTACKS) >= 40
    path = tmp_path / "evil.pt"
    evil = {"_target_": "os.mkdir", "path": str(watch.private / "canary")}
    torch.save({**content, "config": attacked(content, ATTACKS[name], evil)}, path)

    def used() -> None:
        restored = restore(path)
        _ = restored.datasets(), restored.loss()

    watch.refused(used)


def attacked(content: Node, attack: Attack, evil: Node) -> Node:
    config: Node = copy.deepcopy(content["config"])
    attack(config, evil)
    return config


def bomb(levels: int, make: Callable[[Any], Any]) -> Any:
    """A value that holds the one below it ten times: ten to the power of its levels in all."""
    value: Any = "x"
    for _ in range(levels):
        value = make(value)
    return value


def in_config(place: str, value: Any) -> Callable[[Node], None]:
    *above, last = place.split("/")

    def change(content: Node) -> None:
        node = content["config"]
        for key in above:
            node = node[key]
        node[last] = value

    return change


def tensor_of(value: torch.Tensor) -> Callable[[Node], None]:
    return lambda content: content["model"].update(weight=value)


BOMBS: dict[str, Callable[[Node], None]] = {
    "lists": in_config("helper", bomb(15, lambda below: [below] * 10)),
    "dicts": in_config("helper", bomb(15, lambda below: {str(n): below for n in range(10)})),
    "a list in itself": in_config("helper", bomb(1, lambda below: [below])),
    "ten million layers": in_config("encoder/text/num_layers", 10**7),
    "a width of a trillion": in_config("encoder/text/width", 10**12),
    "a number of many digits": in_config("seed", 10**5000),
    "one number for a hundred billion": tensor_of(torch.zeros(1).expand(10**11)),
    "complex weights": tensor_of(torch.zeros(1, dtype=torch.complex64)),
    "weights of eight bits": tensor_of(torch.zeros(1).to(torch.float8_e4m3fn)),
    "a name that moves the cursor": lambda content: content["model"].update({"\x1b[2J": torch.zeros(1)}),
    "moments for a hundred billion": lambda content: content["optimizer"].update(
        state={0: {"exp_avg": torch.zeros(1).expand(10**11)}}
    ),
    "a run's name of two lines": in_config("name", "a\x1b[2J\nb"),
    "a mean of many digits": lambda content: content["preprocessing"].update(mean=[10**400, 0, 0]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_checkpoint_takes_time_or_memory(name: str, watch: Watch, content: Node, tmp_path: Path) -> None:
    changed = {**copy.deepcopy(content), "model": dict(content["model"])}
    BOMBS[name](changed)
    if name == "a list in itself":
        changed["config"]["helper"].append(changed["config"]["helper"])
    torch.save(changed, path := tmp_path / "evil.pt")
    watch.refused(lambda: load_run(path))


# ------------------------------------------------------------------------------------------ saved models


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MiniCLIP(bundle_of()).save_pretrained(tmp_path_factory.mktemp("models") / "saved")


Header = Callable[[Node, str, str], Any]
"""Changes a header, of whose tensors two are named, or returns another, or bytes in its place."""

HEADERS: dict[str, Header] = {
    "beyond the file": lambda header, a, b: header[a].update(data_offsets=[10**15, 10**15 + 4]),
    "below zero": lambda header, a, b: header[a].update(data_offsets=[-4, 0]),
    "backwards": lambda header, a, b: header[a].update(data_offsets=[8, 4]),
    "overlapping": lambda header, a, b: header[a].update(header[b]),
    "too short": lambda header, a, b: header[a].update(data_offsets=[0, 1]),
    "a gap": lambda header, a, b: header.pop(a) and None,
    "a shape of billions": lambda header, a, b: header[a].update(shape=[2**40, 2**40]),
    "a shape below zero": lambda header, a, b: header[a].update(shape=[-1]),
    "a shape beside the offsets": lambda header, a, b: header[a].update(shape=[3, 5, 7, 11]),
    "another kind of number": lambda header, a, b: header[a].update(dtype="F64"),
    "an unknown kind": lambda header, a, b: header[a].update(dtype="X99"),
    "an empty tensor of billions": lambda header, a, b: header.update(
        more={"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}
    ),
    "a name twice": lambda header, a, b: f"{json.dumps(header)[:-1]}, {json.dumps(header)[1:]}".encode(),
    "nested": lambda header, a, b: b"[" * 10**5,
    "no text": lambda header, a, b: b"\xff\xfe{}",
    "a list": lambda header, a, b: b"[]",
    "nothing": lambda header, a, b: b"{}",
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_no_forged_header_is_believed(name: str, watch: Watch, model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "forged")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    first, second = [key for key in header if key != "__metadata__" and header[key]["shape"]][:2]
    forged = HEADERS[name](header, first, second)
    text = forged if isinstance(forged, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + whole[8 + length :])
    watch.refused(lambda: load_folder(folder))


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**9, 0, 3])
def test_no_length_of_a_header_is_believed(
    length: int, watch: Watch, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "forged")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    watch.refused(lambda: load_folder(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("kind", ["link", "pipe", "device", "nested"])
def test_no_file_of_a_model_is_another(
    kind: str, name: str, watch: Watch, model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "forged")
    put(folder / name, kind, watch.private / "secret.jpg")
    watch.refused(lambda: load_folder(folder))


def put(path: Path, kind: str, private: Path) -> None:
    """Put something else in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "nested":
        path.write_text("[" * 10**5 + "\n")
    else:
        path.symlink_to(private if kind == "link" else "/dev/zero")


# -------------------------------------------------------------------------------------------- tokenizers


def replaces(pattern: Node, content: str, times: int) -> Node:
    one = {"type": "Replace", "pattern": pattern, "content": content}
    return {"normalizer": {"type": "Sequence", "normalizers": [one] * times}}


TOKENIZERS: dict[str, Node | str] = {
    "doubled forty times": replaces({"String": "a"}, "aa", 40),
    "ten for one": replaces({"Regex": "."}, 10 * "x", 12),
    "a pattern without an end": replaces({"Regex": "(a+)+$"}, "b", 1),
    "a pattern that is none": replaces({"Regex": "("}, "b", 1),
    "a long template": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 3000,
            "pair": [],
            "special_tokens": {},
        }
    },
    "a template of an unknown token": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "nowhere", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
    "no model": {"model": None},
    "ids below zero": {"model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}},
    "an empty vocabulary": {"model": {"type": "Unigram", "unk_id": 0, "vocab": []}},
    "a merge of unknown tokens": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["q", "z"]]}},
    "nested": "[" * 10**6,
    "half": '{"version": "1.0",',
    "a list": "[]",
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_tokenizer_takes_time_or_panics(name: str, watch: Watch, model_folder: Path) -> None:
    change = TOKENIZERS[name]
    whole = json.loads((model_folder / "tokenizer.json").read_text("utf-8"))
    text = change if isinstance(change, str) else json.dumps(whole | change)
    watch.refused(lambda: encoded(tokenizer_of(text), ["a dog", 60 * "a" + "b"]))


# ------------------------------------------------------------------------------------- folders and tables


def escapes(private: Path) -> list[str]:
    """Names that lead out of a folder, or to what is no image."""
    up = f"../{private.name}/secret.jpg"
    return [
        *("../secret.jpg", up, f"sub/../{up}", f"./{up}", f"sub/../../{private.name}/secret.jpg"),
        *("..\\secret.jpg", "sub\\..\\..\\secret.jpg", up.replace("/", "\\"), "..", "../", "sub/.."),
        *(str(private / "secret.jpg"), f"/{private / 'secret.jpg'}", f"file://{private}/secret.jpg"),
        *(f"http://127.0.0.1:9/{up}", f"\\\\host\\share{private}", "C:\\secret.jpg", "~/secret.jpg"),
        *("$HOME/secret.jpg", "link.jpg", "links/secret.jpg", "LINK.JPG", "links/../secret.jpg"),
        *("/dev/zero", "/dev/stdin", "/proc/self/environ", "/etc/passwd", "sub\0/1.jpg"),
        *("a" * 5_000, "pipe.jpg", "loop.jpg", f"{up}\n", "%2e%2e/secret.jpg"),
    ]


NUM_ESCAPES = len(escapes(Path("/private")))


@pytest.fixture(scope="module")
def images(watch: Watch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an image, links out of it, a link to itself and a pipe."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "sub").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "0.jpg")
    (folder / "link.jpg").symlink_to(watch.private / "secret.jpg")
    (folder / "links").symlink_to(watch.private)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.mark.parametrize("number", range(NUM_ESCAPES))
def test_no_name_in_a_table_leads_out(number: int, watch: Watch, images: Path) -> None:
    assert NUM_ESCAPES >= 31
    name = escapes(watch.private)[number]

    def read() -> None:
        for file in find_images(images, [name], skips_missing=True).values():
            read_content(images / file)

    watch.refused(read)


@pytest.fixture(scope="module")
def index_folder(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the folder, as its tables are."""
    folder = tmp_path_factory.mktemp("index") / "index"
    embed(folder, images)
    return folder


@pytest.mark.parametrize("number", range(NUM_ESCAPES))
def test_no_name_in_an_index_leads_out(
    number: int, watch: Watch, index_folder: Path, tmp_path: Path
) -> None:
    name = escapes(watch.private)[number]
    folder = shutil.copytree(index_folder, tmp_path / "index")
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        connection.execute("UPDATE entries SET name = ?", [os.fsencode(name)])
        connection.commit()

    def read() -> None:
        entry = Index(folder).entry(1)
        assert entry is not None
        decode(entry.content(), str(entry), decode_size=8)

    watch.refused(read)


PLACES_OF_MODELS = (
    "https://host/model",
    "file:///etc/passwd",
    "hf-hub:a/b",
    "model",
    "inside",
    "inside/../..",
)
"""Beside those of `escapes`; "model" is a folder beside the index, "inside" a link in it that leads out."""


@pytest.mark.parametrize("number", range(NUM_ESCAPES + len(PLACES_OF_MODELS)))
def test_no_model_that_an_index_names_is_loaded(
    number: int, watch: Watch, index_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(index_folder, tmp_path / "index")
    (tmp_path / "model").mkdir()
    (folder / "inside").symlink_to(watch.private)
    places = (*escapes(watch.private), *PLACES_OF_MODELS)
    place = str(folder / places[number]) if places[number].startswith("inside") else places[number]
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection:
        connection.execute("UPDATE facts SET model_path = ?", [place])
        connection.commit()

    told = watch.refused(lambda: load_model_of_index(Index(folder), None))
    assert "--model MODEL" in told


FILES_OF_RUNS = ("config.yaml", "summary.json", "metrics.jsonl", "environment.json")


PUT_INSTEAD = [(name, kind) for name in FILES_OF_RUNS for kind in ("link", "pipe", "device", "nested")]
PUT_INSTEAD += [("figures/retrieval.png", kind) for kind in ("link", "pipe", "device")]


@pytest.mark.parametrize(("name", "kind"), PUT_INSTEAD)
def test_no_file_of_a_run_is_another(name: str, kind: str, watch: Watch, tmp_path: Path) -> None:
    run = foreign_run(tmp_path / "run")
    put(run / name, kind, watch.private / "secret.jpg")
    watch.tried += 1
    watch.is_on = True
    runs, failures, _ = read_collection([run])
    watch.is_on = False
    told = [failure.reason for failure in failures] + [damage for each in runs for damage in each.damages]
    assert len(told) == 1 and "\n" not in told[0]
    assert not watch.opened and not watch.executed


YAML_BOMB = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
)

YAMLS = {
    "aliases": YAML_BOMB,
    "a tag of Python": "a: !!python/object/apply:os.mkdir [canary]",
    "a tag of Python's names": "a: !!python/name:os.system",
    "nested": "[" * 2_000,
    "a list": "[1]",
}


@pytest.mark.parametrize("name", YAMLS)
def test_no_yaml_executes_or_grows(name: str, watch: Watch, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(YAMLS[name])
    watch.refused(RunFiles(tmp_path).read_config)


def test_ranks_that_unpack_to_gigabytes_are_refused(watch: Watch, tmp_path: Path) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, image_to_text=np.zeros(10**6, np.uint8))
    data = bytearray(file.getvalue())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 2**31)  # the size it says to have
    (tmp_path / "ranks.npz").write_bytes(data)
    assert "2,147,483,648 bytes" in watch.refused(RunFiles(tmp_path).read_ranks)


def test_ranks_of_objects_are_refused(watch: Watch, tmp_path: Path) -> None:
    evil = np.array([Evil(watch.private / "canary")], dtype=object)
    np.savez(tmp_path / "ranks.npz", image_to_text=evil)
    watch.refused(RunFiles(tmp_path).read_ranks)


def test_a_table_of_nested_json_is_refused(watch: Watch, tmp_path: Path) -> None:
    for number, text in enumerate(["[" * 10**5, '{"image": ' * 10**5, f'[{{"image": {"9" * 5000}}}]']):
        path = tmp_path / f"{number}.jsonl"
        path.write_text(text)
        watch.refused(lambda path=path: list(read_json_table(path)))  # type: ignore[misc]


# ------------------------------------------------------------------------------------------------ images


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG whose header says its size, and whose other chunks are these."""
    about = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", about), *chunks, (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


PACKED_TEXT = zlib.compress(bytes(200 * 2**20), 9)

IMAGES: dict[str, Callable[[], bytes]] = {
    "ten billion pixels": lambda: png(100_000, 100_000),
    "two hundred million pixels": lambda: png(20_000, 10_000),
    "four billion on a side": lambda: png(2**31 - 1, 2**31 - 1),
    "no pixels": lambda: png(0, 10),
    "a text of 200 MB": lambda: png(4, 4, (b"zTXt", b"a\0\0" + PACKED_TEXT)),
    "a text in another language of 200 MB": lambda: png(4, 4, (b"iTXt", b"a\0\1\0\0\0" + PACKED_TEXT)),
    "a profile of 200 MB": lambda: png(4, 4, (b"iCCP", b"a\0\0" + PACKED_TEXT)),
    "a program for a printer": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n(x) run\n%%EOF\n",
    "a page": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
}


@pytest.mark.parametrize("name", IMAGES)
def test_no_image_takes_memory_or_runs(name: str, watch: Watch) -> None:
    with pytest.raises(BrokenImage):
        decode(IMAGES[name](), "a.png", decode_size=8)
    told = watch.refused(lambda: decode(IMAGES[name](), "a.png", decode_size=8))
    assert "a.png" in told


# ---------------------------------------------------------------------------------------- HTML and tables


INJECTIONS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "'><svg onload=alert(1)>",
    "javascript:alert(1)",
    "![a](http://x)",
    "[a](javascript:alert(1))",
    "a\n## a heading\n\n<b>b</b>",
    "a | b",
)

FORMULAS = (
    '=HYPERLINK("http://x","y")',
    "+1+cmd|' /C calc'!A0",
    "-1+cmd|' /C calc'!A0",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    "  =1+1",
)


class Tags(html.parser.HTMLParser):
    """The tags of a page and all their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(f"{name}=" for name, _ in attributes)}


ALLOWED = {"html", "meta", "title", "style", "h1", "h2", "p", "div", "table", "tr", "th", "td"}
ALLOWED |= {"pre", "img", "small", "head", "body"}
ALLOWED |= {"lang=", "charset=", "name=", "content=", "class=", "src=", "alt="}


@pytest.mark.parametrize("text", [*INJECTIONS, *FORMULAS])
def test_no_report_holds_a_strangers_html_or_formula(text: str, watch: Watch, tmp_path: Path) -> None:
    watch.tried += 1
    run = foreign_run(tmp_path / "run", name=text)
    (read,) = read_collection([run]).runs
    failure = Failure(Path("/runs") / text.replace("/", "_"), text, text)
    section = Section(text, [text], [[text, text], [text, failure.reason]], commands=[text])

    page = as_html([section])
    tags = Tags()
    tags.feed(page)
    assert tags.found <= ALLOWED
    markdown = re.sub(r"(?m)^ {4}.*", "", as_markdown([section]))  # but for blocks of code
    assert "<s" not in markdown and "<i" not in markdown and "](" not in markdown
    assert "# a heading" not in [line.lstrip("#") for line in markdown.splitlines() if line[:1] == "#"]

    table = as_csv([read], [text, "optimizer.kind"])
    for row in csv.reader(io.StringIO(table)):
        assert not any(is_formula(cell) for cell in row), row


def is_formula(cell: str) -> bool:
    return cell.lstrip(" ").startswith(tuple("=+-@\t\r\n"))


@pytest.mark.parametrize("text", [*INJECTIONS, *FORMULAS])
def test_no_table_of_a_sweep_or_of_wandb_does(text: str, watch: Watch, tmp_path: Path) -> None:
    watch.tried += 1
    job = foreign_run(tmp_path / "0")
    summary = json.loads((job / "summary.json").read_text())
    summary["best"]["protocol"] = text
    (job / "summary.json").write_text(json.dumps({**summary, "best_rsum": 1.0}))
    (job / "status.json").write_text(json.dumps({"status": text, "reason": text}))
    (job / "job.json").write_text(json.dumps({"format": 2, "key": text, "overrides": [text]}))
    assert Job.read(job).overrides == [text]
    Sweep(tmp_path).write_summary()

    rows = list(csv.reader((tmp_path / "summary.csv").open(newline="")))
    assert len(rows) == 2 and not any(is_formula(cell) for row in rows for cell in row), rows
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert len(lines) == 3 and "<" not in lines[2] and "](" not in lines[2]
    assert len(re.split(r"(?<!\\)\|", lines[2])) == len(COLUMNS) + 2

    best = {**summary["best"], "val/i2t_median_rank": 1.0, "val/t2i_median_rank": 1.0}
    assert not any(is_formula(str(cell)) for row in _retrieval_rows({"best": best}) for cell in row)


@pytest.mark.parametrize("cell", [-1.5, 1e-3, 7, "1e-3", "a - b", "", None, "rho=0.05"])
def test_numbers_and_words_stay_what_they_are(cell: object) -> None:
    from miniclip.table_cells import spreadsheet_cell

    assert spreadsheet_cell(cell) == cell


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "status.json")
    with pytest.raises(UserError, match="neither a file nor a folder"):
        within(tmp_path, "status.json")
