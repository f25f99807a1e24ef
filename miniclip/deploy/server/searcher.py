"""An index together with the model that made it."""

from typing import Any

import numpy as np

from miniclip.deploy.index import Found, Index, check_model
from miniclip.deploy.index.update import as_array, decode_size_of, stacked
from miniclip.deploy.server.images import decode_upload
from miniclip.embedding_model import FingerprintedModel
from miniclip.errors import UserError


class NoFiniteVector(UserError):
    """A model gives a vector with an infinite number, or one that is none."""


class Searcher:
    """Embeds queries and searches one index; several threads may do so at a time.

    Args:
        name: by which a request chooses it.
    """

    def __init__(self, name: str, index: Index, model: FingerprintedModel):
        self.name = name
        self.index = index
        self.model = model
        self.decode_size = decode_size_of(model)
        self._checked: str | None = None

    def vector_of_text(self, text: str) -> np.ndarray:
        """The vector (D,) of words, of length 1."""
        return self._finite(self.model.encode_text([text]))

    def is_too_long(self, text: str) -> bool:
        """Whether the model does not read the end of the words."""
        return bool(self.model.too_long([text]))

    def vector_of_image(self, content: bytes) -> np.ndarray:
        """The vector (D,) of an image's file, of length 1.

        Raises:
            BrokenImage: when it is none.
        """
        image = decode_upload(content, decode_size=self.decode_size)
        return self._finite(self.model.encode_image(stacked([self.model.preprocess(image)])))

    def search(self, vectors: list[np.ndarray], *, k: int, threshold: float | None) -> Found:
        """The images nearest to the mean of vectors (D,).

        Raises:
            UserError: when the index has been made anew by another model meanwhile.
        """
        facts = self.index.facts
        # a model of torch reads all its weights for a fingerprint, which a query need not wait for
        if facts.fingerprint != self._checked:
            check_model(self.index.folder, facts, self.model)
            self._checked = facts.fingerprint

        mean = np.mean(vectors, axis=0)
        query = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return self.index.search(query[None], k=k, threshold=threshold)

    def _finite(self, features: Any) -> np.ndarray:
        """The only row of features (1, D).

        Raises:
            NoFiniteVector: when it is not finite, which JSON cannot tell.
        """
        vector = as_array(features)[0]
        if not np.isfinite(vector).all():
            raise NoFiniteVector(f"The model {self.model.name} gives no finite vector for this query.")
        return vector
