"""Embed images into an index, which `miniclip search` searches.

A source is a folder of images, or a table (.csv, .tsv, .jsonl, .parquet) with a column of images. Called
again, the command goes on where it stopped: it embeds what is new or has changed and drops what is gone.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from miniclip.commands.models import load_model
from miniclip.errors import UserError, at_least, counted
from miniclip.files import typed_path

if TYPE_CHECKING:
    from miniclip.deploy.index import Changes, IndexWriter

EXAMPLES = """\
  miniclip embed outputs/miniclip/RUN photos -o index
  miniclip embed RUN products.csv --image-column file --root images -o index
  miniclip embed RUN photos -o index --npy
  miniclip embed RUN -o index --forget old_photos
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A model, sources, and the index."""
    parser.add_argument("model", type=typed_path, metavar="MODEL")
    parser.add_argument("sources", nargs="*", type=typed_path, metavar="FOLDER_OR_TABLE")
    parser.add_argument("-o", "--out", type=typed_path, required=True, help="folder of the index")
    parser.add_argument("--image-column", help="column of a table with the images")
    parser.add_argument("--root", type=typed_path, help="folder of the images that a table names")
    parser.add_argument(
        "--forget", type=typed_path, action="append", default=[], help="a source that leaves the index"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--batch-size", type=int, default=64, help="images per batch (64)")
    parser.add_argument("--threads", type=int, help="threads that decode (one per processor)")
    parser.add_argument("--npy", action="store_true", help="also write vectors.npy and paths.json")


def run(arguments: argparse.Namespace) -> None:
    """Bring the index up to date and print what was done."""
    from miniclip.deploy.index import open_source, open_writer, update
    from miniclip.deploy.index.plain_arrays import write_arrays

    at_least("--batch-size", arguments.batch_size, 1)
    if arguments.threads is not None:
        at_least("--threads", arguments.threads, 1)
    _check_options_of_tables(arguments)
    sources = [
        open_source(path, root=arguments.root, image_column=arguments.image_column)
        for path in dict.fromkeys(arguments.sources)
    ]
    if not sources and not arguments.forget:
        raise UserError("Embed what? Name a folder of images or a table, or --forget one.")
    model = load_model(arguments.model, device=arguments.device)
    try:
        with open_writer(arguments.out, model, model_path=arguments.model) as writer:
            _forget(arguments.forget, writer)
            changes = update(
                writer,
                model,
                sources,
                batch_size=arguments.batch_size,
                num_threads=arguments.threads,
            )
            writer.pack()
            # before another writer may pack, or write over the slots that these entries point at
            arrays = write_arrays(arguments.out) if arguments.npy else []
    except KeyboardInterrupt:
        raise UserError("Stopped; what is done is kept, and the same command goes on.") from None

    _print_changes(changes, arguments.out)
    for path in arrays:
        print(path)


def _check_options_of_tables(arguments: argparse.Namespace) -> None:
    """Stop at an option that no source would read."""
    if any(not path.is_dir() for path in arguments.sources):
        return
    for option, value in (("--image-column", arguments.image_column), ("--root", arguments.root)):
        if value is not None:
            raise UserError(f"{option} {value} is read with a table only, and no table is named.")


def _forget(paths: list[Path], writer: "IndexWriter") -> None:
    """Take sources out of the index.

    Raises:
        UserError: when the index has none of that name; nothing is taken out then.
    """
    known = writer.entries.sources()
    absolute = [Path(os.path.abspath(path)) for path in dict.fromkeys(paths)]
    for path in absolute:
        if path not in known:
            listed = ", ".join(map(str, known)) or "none"
            raise UserError(f"--forget {path}: the index has no such source; it has: {listed}.")
    for path in absolute:
        writer.forget(known[path])
        print(f"{path} is out of the index")


def _print_changes(changes: "Changes", folder: Path) -> None:
    from miniclip.deploy.index import Index

    for path in changes.part_of_another:
        print(f"{path} lies in a folder of the index, and its images are that folder's")
    total = len(Index(folder))
    if changes.broken:
        name, reason = next(iter(changes.broken.items()))
        left_out = f"{counted(len(changes.broken), 'image')} left out, like {name}: {reason}"
        if not total:
            raise UserError(f"{folder} holds no image. {left_out}")
        print(f"Warning: {left_out}")
    print(
        f"{folder}: {counted(total, 'image')} ({changes.new:,} new, {changes.changed:,} changed, "
        f"{changes.copied:,} renamed or copied, {changes.removed:,} removed)"
    )
    if changes.embedded:
        rate = changes.embedded / max(changes.seconds, 1e-9)
        print(f"{rate:,.1f} images per second")
