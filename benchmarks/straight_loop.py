"""Training images per second beside a plain loop of torch over the same photographs.

    python -m benchmarks.straight_loop /path/to/flickr8k [ROUNDS]

The rival is what one writes who knows torch: torchvision's ResNet-34, the package linformer on captions
padded to 77 tokens, a shared MLP, a DataLoader with one worker, autocast to bfloat16, torch's AdamW or
pytorch_optimizer's SAM on it. MiniCLIP trains the same sizes through `python run.py` from images that it
decoded once. A round is one run of each, in a process of its own; the rate is that of the steps after the
first five.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import resnet34

from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.open_clip_trainer import BATCH_SIZE
from benchmarks.text import PADDED_LENGTH, Rival
from benchmarks.throughput import STEPS, WARMUP_STEPS, miniclip_rate
from benchmarks.timing import conditions, rates_figure
from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.data.sources.delimited import read_table
from miniclip.preprocessing import MEAN, STD
from miniclip.tokenizers import Tokenizer

EMBED_DIM = 256
OPTIMIZERS = ("adamw", "sam")


class Photographs(Dataset[tuple[Tensor, Tensor]]):
    """Photographs, each with one caption as token ids (77,)."""

    def __init__(self, root: Path, tokenizer: Tokenizer, rows: list[tuple[str, str]]):
        self.root = root
        self.rows = rows
        self.tokenizer = tokenizer
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(64, scale=(0.9, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        name, caption = self.rows[index]
        image = self.transform(Image.open(self.root / "Images" / name).convert("RGB"))
        token_ids, _ = self.tokenizer.encode([caption])
        return image, F.pad(token_ids[0], (0, PADDED_LENGTH - token_ids.shape[1]))


class Model(nn.Module):
    """Two towers, a shared MLP and a learned temperature; the loss of a batch, ()."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.image_tower = resnet34(num_classes=EMBED_DIM)
        self.text_tower = Rival(vocab_size, EMBED_DIM)
        self.projection = nn.Sequential(
            nn.Linear(EMBED_DIM, 2 * EMBED_DIM), nn.GELU(), nn.Linear(2 * EMBED_DIM, EMBED_DIM)
        )
        self.log_scale = nn.Parameter(torch.tensor(14.3).log())

    def forward(self, images: Tensor, token_ids: Tensor) -> Tensor:
        towers = self.image_tower(images), self.text_tower(token_ids)
        image_features, text_features = (F.normalize(self.projection(each), dim=1) for each in towers)
        logits = self.log_scale.exp() * image_features.float() @ text_features.float().T
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def batches(root: Path) -> tuple[Iterator[tuple[Tensor, Tensor]], int]:
    """Batches without an end, and the size of the vocabulary."""
    rows = list(read_table(root / "captions.txt"))[::5]
    tokenizer = instantiate.make(compose(f"context_length={PADDED_LENGTH}"), "tokenizer")
    tokenizer.fit(caption for _, caption in rows)
    dataset = Photographs(root, tokenizer, rows)
    loader = DataLoader(dataset, BATCH_SIZE, shuffle=True, num_workers=1, drop_last=True)
    return chain.from_iterable(repeat(loader)), tokenizer.vocab_size


def train(root: Path, optimizer_name: str) -> float:
    """The rival's images per second."""
    endless, vocab_size = batches(root)
    model = Model(vocab_size).train()

    def backward(images: Tensor, token_ids: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(images, token_ids)
        loss.backward()

    if optimizer_name == "sam":
        from pytorch_optimizer import SAM

        sam = SAM(model.parameters(), base_optimizer=torch.optim.AdamW, rho=0.05, lr=5e-4)
    else:
        adamw = torch.optim.AdamW(model.parameters(), lr=5e-4)

    started = 0.0
    for number, (images, token_ids) in enumerate(islice(endless, STEPS)):
        if number == WARMUP_STEPS:
            started = time.perf_counter()
        backward(images, token_ids)
        if optimizer_name == "sam":
            sam.first_step(zero_grad=True)
            backward(images, token_ids)
            sam.second_step(zero_grad=True)
        else:
            adamw.step()
            adamw.zero_grad()
    return BATCH_SIZE * (STEPS - WARMUP_STEPS) / (time.perf_counter() - started)


def rate_of_loop(root: Path, optimizer: str) -> float:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.straight_loop", "--loop", str(root), optimizer]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    if sys.argv[1:2] == ["--loop"]:
        print(train(Path(sys.argv[2]), sys.argv[3]))
        return

    arguments = arguments_of(__doc__, "folder", rounds=3)
    root, rounds = arguments.folder, arguments.rounds
    ours: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    theirs: dict[str, list[float]] = {name: [] for name in OPTIMIZERS}
    for _ in range(rounds):
        for name in OPTIMIZERS:
            with tempfile.TemporaryDirectory() as folder:
                ours[name].append(miniclip_rate(root, Path(folder), name))
            theirs[name].append(rate_of_loop(root, name))
            rates = f"MiniCLIP {ours[name][-1]:.0f}, the loop {theirs[name][-1]:.0f} images/s"
            print(f"{name}: {rates}", flush=True)

    print(conditions("torch", "torchvision", "linformer", "pytorch_optimizer"))
    for name in OPTIMIZERS:
        tell(rates_figure(f"MiniCLIP, {name}", ours[name], f"a plain loop, {name}", theirs[name]))


if __name__ == "__main__":
    main()
