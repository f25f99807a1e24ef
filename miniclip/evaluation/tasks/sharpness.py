"""Sharpness of the minimum: how the training loss rises around the weights."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches
from miniclip.errors import SettingError, UserError, counted
from miniclip.evaluation.task import Result, Task, TaskContext, need_training_images
from miniclip.figures import draw_landscape
from miniclip.metrics import Landscape, LossSurface, landscape, m_sharpness, top_eigenvalue
from miniclip.pretrained import MiniCLIP


class Sharpness(Task):
    """m-sharpness, the Hessian's top eigenvalue and the loss on two lines through the weights.

    Args:
        radii: lengths rho at which sharpness is measured.
        num_batches: training batches that are looked at.
        batch_size: images of each of these, the m of m-sharpness.

    Raises:
        SettingError: when a number is out of range.
    """

    def __init__(self, *, radii: Sequence[float], num_batches: int, batch_size: int):
        if not min(radii, default=0) > 0:
            raise SettingError("radii", list(radii), "must be above 0")
        if num_batches < 1:
            raise SettingError("num_batches", num_batches, "must be at least 1")
        if batch_size < 2:
            raise SettingError("batch_size", batch_size, "must be at least 2")

        self.radii = radii
        self.num_batches = num_batches
        self.batch_size = batch_size

    def check(self, context: TaskContext) -> None:
        need_training_images("sharpness", context)
        if not isinstance(context.model, MiniCLIP) or context.loss is None:
            raise UserError(f"sharpness is measured on MiniCLIP's runs, not on {context.model.name}.")

        if self.num_batches > len(context.train) // self.batch_size:
            raise UserError(
                f"eval.tasks.sharpness.num_batches={self.num_batches} of "
                f"eval.tasks.sharpness.batch_size={self.batch_size} must fit into the "
                f"{counted(len(context.train), 'training image')}."
            )

    def run(self, context: TaskContext) -> Result:
        surface = self._surface(context)
        loss = surface.mean_loss()
        rises = {f"{radius:g}": m_sharpness(surface, radius) for radius in self.radii}
        curvature = top_eigenvalue(surface)
        slices = landscape(surface, radius=max(self.radii))

        protocol = f"train: {self.num_batches} x {self.batch_size} images, float32, batch statistics"
        draw_landscape(slices, context.folder / "sharpness.png", protocol=protocol)

        numbers: dict[str, Any] = {
            "protocol": protocol,
            "data_fingerprint": context.train.split.fingerprint(),
            "loss": loss,
            "m_sharpness": rises,
            "top_eigenvalue": curvature,
            "landscape": _numbers(slices),
        }
        lines = [
            f"loss at the weights     {loss:12.4f}",
            *(f"m-sharpness, rho {radius:6} {rise:12.4f}" for radius, rise in rises.items()),
            f"top Hessian eigenvalue  {curvature:12.4f}",
        ]
        return Result(numbers, lines)

    def _surface(self, context: TaskContext) -> LossSurface:
        """The training loss on the first batches of an epoch."""
        model = context.model
        assert isinstance(model, MiniCLIP) and context.loss is not None  # see `check`

        order = EpochBatches(len(context.train), batch_size=self.batch_size, seed=context.seed)
        loader = Loader(context.train, order, tokenizer=model.tokenizer, device=model.device, num_workers=0)

        # kept, for each measure goes through the same ones many times
        batches = list(islice(loader, self.num_batches))
        return LossSurface(model.model, context.loss, batches)


def _numbers(slices: Landscape) -> dict[str, list[float]]:
    # files have kept the name "shares" for fractions
    return {
        "distances": slices.distances,
        "gradient": slices.gradient,
        "shares": slices.fractions,
        "random": slices.random,
    }
