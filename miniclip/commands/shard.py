"""Write any data set into tar shards in webdataset's layout, or index shards that are there.

Images keep the bytes of their files, and all their captions. Called again after it was stopped, the command
goes on; the shards are read with data=shards data.urls=FOLDER. An index beside each shard says where its
images lie; data=shards makes those that are missing, and --index does so beforehand, in parallel.
"""

import argparse
import re
import time
from functools import partial
from os import cpu_count
from pathlib import Path

from miniclip.config.compose import compose
from miniclip.errors import SettingError, UserError, above_zero, at_least, counted
from miniclip.files import typed_path

EXAMPLES = """\
  miniclip shard data=folder data.root=photos -o shards
  miniclip shard data=hub data.hub=lmms-lab/flickr30k -o shards --size 256MB --processes 8
  miniclip shard --index shards/*.tar
"""

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}

SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(KB|MB|GB)", re.IGNORECASE)

MOST_SHOWN = 3
"""Of images that were left out."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Settings of the data and a folder, or shards to index."""
    parser.add_argument("words", nargs="*", metavar="SETTING=VALUE", help="with --index: the shards")
    parser.add_argument("-o", "--out", type=typed_path, help="folder of the shards")
    parser.add_argument("--size", default="256MB", help="of a shard at most: 64MB, 1GB (256MB)")
    parser.add_argument("--processes", type=int, default=cpu_count(), help="one per processor")
    parser.add_argument("--index", action="store_true", help="index the shards that are named instead")
    parser.add_argument("--caption-column", help="with --index: as data.caption_column")
    parser.add_argument("--class-column", help="with --index: as data.class_column")
    parser.add_argument("--captions-per-line", action="store_true", help="with --index: as of data")


def run(arguments: argparse.Namespace) -> None:
    """Write or index, and print how much it was."""
    at_least("--processes", arguments.processes, 1)
    if arguments.index:
        _index(arguments)
    else:
        _write(arguments)


def _write(arguments: argparse.Namespace) -> None:
    from miniclip.config.build import check_part
    from miniclip.config.instantiate import make, names_of
    from miniclip.data.shards.writing import ShardWriter, begin, in_processes, parts_of, plan

    max_bytes = _bytes_of(arguments.size)
    if arguments.out is None:
        raise UserError("Write where? Name a folder with -o.")
    cfg = compose(*arguments.words)
    check_part(cfg, "data")
    source = make(cfg, "data")
    with names_of(cfg, "data"):
        parts = [part._replace(split=source.limited(part.split)) for part in parts_of(source)]
        jobs = plan(parts, max_bytes=max_bytes)
        begin(arguments.out, parts, jobs)

        write = ShardWriter(parts, arguments.out, skips_broken=source.skips_broken).write
        written = in_processes(write, jobs, num_processes=arguments.processes, unit="shard")

    problems = [problem for each in written for problem in each.problems]
    for problem in problems[:MOST_SHOWN]:
        print(f"left out: {problem}")
    if len(problems) > MOST_SHOWN:
        print(f"left out: {counted(len(problems) - MOST_SHOWN, 'further image')}")
    num_images = sum(each.num_images for each in written)
    num_shards = counted(len(jobs), "shard")
    print(f"{counted(num_images, 'image')} in {num_shards}: data=shards data.urls={arguments.out}")


def _index(arguments: argparse.Namespace) -> None:
    from miniclip.data.shards.captions import CaptionReading
    from miniclip.data.shards.places import expanded, is_remote
    from miniclip.data.shards.writing import in_processes, index_shard

    paths = expanded("--index", arguments.words)
    remote = next(filter(is_remote, paths), None)
    if remote is not None:
        raise SettingError(
            "--index", remote, "must be a file of this machine, beside which an index can lie"
        )

    started = time.perf_counter()
    reading = CaptionReading(arguments.caption_column, arguments.captions_per_line, arguments.class_column)
    index = partial(index_shard, reading=reading)
    numbers = in_processes(
        index, [Path(path) for path in paths], num_processes=arguments.processes, unit="shard"
    )

    seconds = time.perf_counter() - started
    megabytes = sum(Path(path).stat().st_size for path in paths) / 1e6
    print(
        f"{counted(sum(numbers), 'image')} in {counted(len(paths), 'shard')} indexed, "
        f"{megabytes:,.0f} MB in {seconds:.1f} s"
    )


def _bytes_of(text: str) -> int:
    """The bytes that "256MB" says."""
    found = SIZE.fullmatch(text.strip())
    if found is None:
        raise SettingError("--size", text, "must be a number with KB, MB or GB, as 256MB")
    size = int(float(found[1]) * UNITS[found[2].upper()])
    above_zero("--size", size)
    return size
