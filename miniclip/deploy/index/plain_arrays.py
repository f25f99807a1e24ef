"""An index as plain files: an array of vectors and a list of paths."""

import json
from pathlib import Path

import numpy as np

from miniclip.deploy.index.database import facts_of, reading
from miniclip.deploy.index.reader import all_entries
from miniclip.deploy.index.vectors import VectorFile
from miniclip.files import replacing


def write_arrays(folder: Path) -> list[Path]:
    """Write vectors.npy (N, D) float16 and paths.json, N texts in the same order; returns both."""
    with reading(folder) as connection:
        facts = facts_of(connection)
        assert facts is not None, "a writer has written them"
        entries = all_entries(connection)
        vectors = VectorFile(folder, facts.generation, facts.embed_dim).mapped()[list(entries)]

    arrays, paths = folder / "vectors.npy", folder / "paths.json"
    with replacing(arrays, "wb") as file:
        np.save(file, vectors)
    with replacing(paths) as file:
        json.dump([str(entry) for entry in entries.values()], file, indent=0)
    return [arrays, paths]
