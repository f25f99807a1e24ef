"""Search an index of images by words, by images, or by both.

Each text and each --image is a query. --text adds words to every --image.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miniclip.commands.models import MODEL_HELP, ROOT_HELP, load_model_of_index, tell_of_closed_places
from miniclip.errors import UserError, at_least, in_range
from miniclip.files import typed_path

if TYPE_CHECKING:
    from miniclip.deploy.index import Found
    from miniclip.embedding_model import EmbeddingModel

EXAMPLES = """\
  miniclip search index "a dog in the snow"
  miniclip search index "a dog" "a cat" -k 5 --threshold 0.2 --json
  miniclip search index --image photo.jpg --text "at night" --sheet found.png
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """An index, queries, and what is shown of the answers."""
    parser.add_argument("index", type=typed_path, metavar="INDEX")
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument(
        "--image", type=typed_path, action="append", default=[], help="an image to search by"
    )
    parser.add_argument("--text", help="words that are added to each --image")
    parser.add_argument("-k", type=int, default=10, help="images per query (10)")
    parser.add_argument("--threshold", type=float, help="the lowest score that is shown, -1 to 1")
    parser.add_argument("--model", type=typed_path, help=MODEL_HELP)
    parser.add_argument("--sheet", type=typed_path, help="PNG to draw what is found into")
    parser.add_argument("--root", type=typed_path, action="append", default=[], help=ROOT_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(arguments: argparse.Namespace) -> None:
    """Search, and print what is found."""
    import numpy as np

    from miniclip.deploy.index import Index, check_model

    _check(arguments)
    index = Index(arguments.index, roots=arguments.root)
    if arguments.sheet is not None:
        tell_of_closed_places(index)
    model = load_model_of_index(index, arguments.model, reads_images=bool(arguments.image))
    facts = index.facts  # after the seconds that loading takes
    check_model(arguments.index, facts, model)

    queries = []
    if arguments.texts:
        queries += list(_of_texts(arguments.texts, model))
    if arguments.image:
        queries += list(_of_images(arguments, model))
    found = index.search(np.stack(queries), k=arguments.k, threshold=arguments.threshold)

    asked = [{"text": text, "image": None} for text in arguments.texts]
    asked += [{"text": arguments.text, "image": str(path.absolute())} for path in arguments.image]
    if arguments.sheet is not None:
        from miniclip.deploy.index.contact_sheet import draw_sheet

        try:
            draw_sheet([_title(query) for query in asked], found, arguments.sheet)
        except OSError as error:
            raise UserError(f"The sheet {arguments.sheet} cannot be written ({error.strerror}).") from None
    if arguments.json:
        _print_json(asked, found, arguments.index, facts.model_name)
    else:
        is_limited = arguments.threshold is not None
        nothing = "nothing above the threshold" if is_limited else "the index holds no images"
        _print_lines(asked, found, nothing=nothing)


def _check(arguments: argparse.Namespace) -> None:
    at_least("-k", arguments.k, 1)
    if arguments.threshold is not None:
        in_range("--threshold", arguments.threshold, -1, 1)
    if not arguments.texts and not arguments.image:
        raise UserError('Search for what? Give words ("a dog") or --image FILE.')
    if arguments.text is not None and not arguments.image:
        raise UserError("--text is added to an --image; give one, or the words without --text.")
    if any(not text.strip() for text in (*arguments.texts, arguments.text or "x")):
        raise UserError("A query is empty. Give it words.")


def _of_texts(texts: list[str], model: "EmbeddingModel") -> Any:
    """Vectors (M, D) of texts."""
    from miniclip.deploy.index.update import as_array

    return as_array(model.encode_text(texts))


def _of_images(arguments: argparse.Namespace, model: "EmbeddingModel") -> Any:
    """Vectors (M, D) of the images, each with that of the words added, where there are some."""
    import numpy as np

    from miniclip.data.image_content import decode_without_torch, read_content
    from miniclip.deploy.index.update import as_array, decode_size_of, stacked

    size = decode_size_of(model)
    images = [
        decode_without_torch(read_content(path), str(path), decode_size=size) for path in arguments.image
    ]
    vectors = as_array(model.encode_image(stacked([model.preprocess(image) for image in images])))
    if arguments.text is not None:
        vectors = vectors + _of_texts([arguments.text], model)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _print_json(asked: list[dict[str, Any]], found: "Found", folder: Path, model_name: str) -> None:
    queries = []
    for query, scores, entries in zip(asked, found.scores, found.entries, strict=True):
        results = [
            {"score": float(score), "path": str(entry.path), "row": entry.row, "title": entry.title}
            for score, entry in zip(scores, entries, strict=True)
        ]
        queries.append({**query, "results": results})
    print(json.dumps({"index": str(folder.absolute()), "model": model_name, "queries": queries}, indent=2))


def _print_lines(asked: list[dict[str, Any]], found: "Found", *, nothing: str) -> None:
    for query, scores, entries in zip(asked, found.scores, found.entries, strict=True):
        print(_title(query))
        for score, entry in zip(scores, entries, strict=True):
            name = str(entry)
            print(f"  {score:.4f}  {name if name.isprintable() else ascii(name)}")
        if not entries:
            print(f"  {nothing}")


def _title(query: dict[str, Any]) -> str:
    """How a query is called."""
    return " + ".join(part for part in (query["image"], query["text"]) if part)
