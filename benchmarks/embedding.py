"""Images per second from files to vectors, of a run's exports beside a plain loop of torch.

    python -m benchmarks.embedding RUN FOLDER [ROUNDS]

The rival is `Image.open -> Resize -> ToTensor -> Normalize` in a DataLoader, and the run's own image tower
in float32 on the batches. A round is all images of the folder (2,000 at most) by each.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms

from benchmarks.command_line import arguments_of
from benchmarks.figures import tell
from benchmarks.loading import Usual
from benchmarks.timing import alternate, conditions
from miniclip import MiniCLIP
from miniclip.data.sources.walk import find_images
from miniclip.deploy import OnnxModel
from miniclip.deploy.onnx_export import export_onnx
from miniclip.deploy.onnx_files import Precision

BATCH_SIZE = 64
NUM_WORKERS = 2
MAX_IMAGES = 2_000
NUM_EXAMPLES = 64
"""Images and texts that an export is held against torch on."""

LOOP = "torch, DataLoader"


@torch.inference_mode()
def usual_vectors(model: MiniCLIP, files: list[Path]) -> Tensor:
    """The rival's loop, `N files -> (N, D)`."""
    size = model.preprocess.image_size
    resize = transforms.Resize((size, size), transforms.InterpolationMode.BICUBIC)
    batches = DataLoader(Usual(files, resize), batch_size=BATCH_SIZE, num_workers=NUM_WORKERS)
    return torch.cat([model.model.encode_image(images) for images in batches])


def exports(model: MiniCLIP, files: list[Path], folder: Path) -> dict[str, OnnxModel]:
    """The model in every precision."""
    images = [Image.open(path).convert("RGB") for path in files[:NUM_EXAMPLES]]
    exported = {}
    for precision in get_args(Precision):
        done = export_onnx(
            model, folder / precision, images=images, texts=["a", "a dog"], precision=precision
        )
        print(f"{precision}: {done.image_mb:.1f} MB, differs by at most {done.image_difference:.1e}")
        exported[precision] = OnnxModel(done.folder)
    return exported


def main() -> None:
    arguments = arguments_of(__doc__, "run", "folder", rounds=5)

    model = MiniCLIP.from_pretrained(arguments.run)
    root = arguments.folder
    files = [root / name for name in islice(find_images(root), MAX_IMAGES)]
    rounds = arguments.rounds

    with tempfile.TemporaryDirectory() as temporary:
        rivals: dict[str, Callable[[], object]] = {
            LOOP: partial(usual_vectors, model, files),
            "MiniCLIP": partial(model.encode_image, files),
        }
        for precision, exported in exports(model, files, Path(temporary)).items():
            rivals[f"OnnxModel, {precision}"] = partial(exported.encode_image, files)
        paired = alternate(rivals, rounds=rounds, warmup=1)

    print(conditions("torch", "onnxruntime", "pillow"))
    for name in rivals:
        print(f"{len(files) / paired.median(name):,.0f} images/s", end="  ")
        tell(paired.figure(LOOP, over=name, unit="times the seconds", rival=name))


if __name__ == "__main__":
    main()
