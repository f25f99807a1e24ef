"""Captions per second of the default text tower, beside one made of the package linformer.

    python -m benchmarks.text [ROUNDS]

The rival has the same widths and depth and reads captions padded to 77 tokens, as it must. Both run forward
and backward over the same captions of the embedded data in bfloat16. Then: 150,000 captions to token ids.
"""

import itertools
import time
from functools import partial

import torch
from linformer import Linformer
from torch import Tensor, nn

from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.timing import alternate, conditions
from miniclip.config import instantiate
from miniclip.config.compose import compose

BATCH_SIZE = 128
PADDED_LENGTH = 77
WIDTH, LAYERS, HEADS, K = 256, 4, 4, 16


class Rival(nn.Module):
    """The package's tower: no mask, so the mean is over the padding as well."""

    def __init__(self, vocab_size: int, embed_dim: int):
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, WIDTH)
        self.position_embedding = nn.Parameter(torch.randn(PADDED_LENGTH, WIDTH) / 100)
        self.blocks = Linformer(dim=WIDTH, seq_len=PADDED_LENGTH, depth=LAYERS, heads=HEADS, k=K)
        self.proj = nn.Linear(WIDTH, embed_dim)

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.proj(self.blocks(self.token_embedding(token_ids) + self.position_embedding).mean(dim=1))


def main() -> None:
    arguments = arguments_of(__doc__, rounds=5)
    rounds = arguments.rounds
    cfg = compose(f"context_length={PADDED_LENGTH}", f"encoder.text.attention.k={K}")
    train_set = instantiate.make(cfg, "data").training_sets().train
    captions = list(itertools.chain.from_iterable(train_set.split.captions))
    tokenizer = instantiate.make(cfg, "tokenizer")
    tokenizer.fit(captions)
    tower = instantiate.make_model(cfg, vocab_size=tokenizer.vocab_size).text_encoder
    rival = Rival(tokenizer.vocab_size, cfg.embed_dim)
    batches = [
        tokenizer.encode(captions[start : start + BATCH_SIZE]) for start in range(0, 1024, BATCH_SIZE)
    ]

    def ours() -> None:
        for token_ids, mask in batches:
            with torch.autocast("cpu", torch.bfloat16):
                out = tower(token_ids, mask)
            out.sum().backward()

    def theirs() -> None:
        for token_ids, _ in batches:
            padded = nn.functional.pad(token_ids, (0, PADDED_LENGTH - token_ids.shape[1]))
            with torch.autocast("cpu", torch.bfloat16):
                out = rival(padded)
            out.sum().backward()

    # both of the same captions, in turn
    times = alternate({"MiniCLIP": ours, "linformer": theirs}, rounds=rounds)
    print(conditions("torch", "linformer", "tokenizers"))
    count = BATCH_SIZE * len(batches)
    for name in times.seconds:
        print(f"{name:10} {count / times.median(name):8.0f} captions/s, forward and backward")
    tell(times.figure("linformer", over="MiniCLIP", unit="times the seconds", rival="our text tower"))

    many = [f"{text} {number}" for number in range(30) for text in captions][:150_000]
    started = time.perf_counter()
    tokenizer.precompute(many)
    print(f"{len(many):,} captions to token ids: {time.perf_counter() - started:.1f} s")
    lookup = alternate({"known": partial(tokenizer.encode, many[:BATCH_SIZE])}, rounds=20)
    print(f"a batch of {BATCH_SIZE} that is known: {1000 * lookup.median('known'):.2f} ms")


if __name__ == "__main__":
    main()
