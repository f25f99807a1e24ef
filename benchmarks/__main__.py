"""All benchmarks, one after another, each in a process of its own.

    python -m benchmarks all [--quick] [--flickr8k FOLDER] [--photographs FOLDER] [--fashion FOLDER]
                             [--run RUN] [--out FOLDER]

What needs a folder that is not given is left out, and named. FOLDER/figures.json holds machine, versions
and figures, FOLDER/figures.md the table made from it. The quick form takes one small round of a few: it
shows that they run, and its figures say little.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks import figures
from benchmarks.timing import conditions

FLICKR8K, PHOTOGRAPHS, FASHION, RUN = "{flickr8k}", "{photographs}", "{fashion}", "{run}"


class Benchmark(NamedTuple):
    """One module of this package.

    Attributes:
        module: its name.
        arguments: of its command line; braces name a folder of the user's.
        quick: those of the quick form; None has none.
    """

    module: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = None


BENCHMARKS = (
    Benchmark("overhead", quick=("1", "image_size=32", "trainer.batch_size=16")),
    Benchmark("text"),
    Benchmark("loss", quick=("1", "1024")),
    Benchmark("micro_batches"),
    Benchmark("step_cost"),
    Benchmark("throughput", (FLICKR8K,)),
    Benchmark("straight_loop", (FLICKR8K,)),
    Benchmark("evaluation", (FASHION,)),
    Benchmark("loading", (PHOTOGRAPHS,)),
    Benchmark("shards", (PHOTOGRAPHS,)),
    Benchmark("embedding", (RUN, PHOTOGRAPHS)),
)


def arguments_of(benchmark: Benchmark, args: argparse.Namespace) -> list[str] | None:
    """The arguments of a benchmark; None where it is left out."""
    wanted = benchmark.quick if args.quick else benchmark.arguments
    if wanted is None:
        return None
    given = {text.strip("{}"): vars(args).get(text.strip("{}")) for text in wanted if text.startswith("{")}
    missing = [name for name, folder in given.items() if folder is None]
    if missing:
        options = " ".join(f"--{name} FOLDER" for name in missing)
        print(f"\nbenchmarks.{benchmark.module} is left out: it needs {options}")
        return None
    return [text.format(**vars(args)) for text in wanted]


def run(module: str, arguments: list[str], kept: Path) -> bool:
    """Run one benchmark, whose figures are kept in a file; whether it ended well."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    print(f"\n{' '.join(command[1:])}", flush=True)
    return subprocess.run(command, env={**os.environ, figures.KEPT_IN: str(kept)}).returncode == 0


def write(found: list[figures.Figure], folder: Path) -> None:
    """figures.json, and figures.md made from the same."""
    folder.mkdir(parents=True, exist_ok=True)
    where = conditions("torch", "torchvision", "linformer", "miniclip")
    content = {"conditions": where, "figures": [each._asdict() for each in found]}
    (folder / "figures.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    (folder / "figures.md").write_text(figures.as_markdown(where, found), encoding="utf-8")
    print(f"\n{len(found)} figures are in {folder / 'figures.json'} and {folder / 'figures.md'}.")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["all"])
    parser.add_argument("--quick", action="store_true")
    for folder in ("flickr8k", "photographs", "fashion", "run"):
        parser.add_argument(f"--{folder}", type=Path)
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()

    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(temporary) / "figures.jsonl"
        for benchmark in BENCHMARKS:
            arguments = arguments_of(benchmark, args)
            if arguments is not None and not run(benchmark.module, arguments, kept):
                failed.append(benchmark.module)
        write(figures.read(kept), args.out)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
