"""Sharpness of the minimum: how the training loss rises around the weights."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from miniclip.data.loader import Loader
from miniclip.data.sampler import EpochBatches
from miniclip.errors import SettingError, UserError, above_zero, at_least, counted
from miniclip.evaluation.task import Result, Task, TaskContext, need_training_images
from miniclip.figures import draw_landscape
from miniclip.metrics import (
    BlockSharpness,
    Landscape,
    LossSurface,
    absolute_cosine,
    block_indices,
    block_sharpness,
    landscape,
    m_sharpness,
    run_perturbation,
    top_eigenpair,
)
from miniclip.pretrained import MiniCLIP


class Sharpness(Task):
    """m-sharpness, the Hessian's top eigenvalue, sharpness by block, and the loss on two lines.

    Cosines are those of the gradient, and of the perturbation that the run's SAM makes of it (see
    `run_perturbation`), with the eigenvector of the top eigenvalue; their sign is left out, for an
    eigenvector has none.

    Args:
        radii: lengths rho at which sharpness is measured.
        num_batches: training batches that are looked at.
        batch_size: images of each of these, the m of m-sharpness.
        block_radius: length rho at which each block is perturbed alone; null leaves the blocks out. They
            cost a gradient for each batch, and a forward pass for each block of the model and one more.

    Raises:
        SettingError: when a number is out of range.
    """

    def __init__(
        self,
        *,
        radii: Sequence[float],
        num_batches: int,
        batch_size: int,
        block_radius: float | None = None,
    ):
        if not min(radii, default=0) > 0:
            raise SettingError("radii", list(radii), "must be above 0")
        at_least("num_batches", num_batches, 1)
        at_least("batch_size", batch_size, 2)
        if block_radius is not None:
            above_zero("block_radius", block_radius, hint=", or null for no blocks")

        self.radii = radii
        self.num_batches = num_batches
        self.batch_size = batch_size
        self.block_radius = block_radius

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
        gradient = surface.mean_gradient()
        perturbation = run_perturbation(surface, gradient, context.optimizer)
        top = top_eigenpair(surface)
        cosine = absolute_cosine(gradient, top.vector)
        slices = landscape(surface, radius=max(self.radii))

        protocol = f"train: {self.num_batches} x {self.batch_size} images, float32, batch statistics"
        draw_landscape(slices, context.folder / "sharpness.png", protocol=protocol)

        numbers: dict[str, Any] = {
            "protocol": protocol,
            "data_fingerprint": context.train.split.fingerprint(),
            "loss": loss,
            "m_sharpness": rises,
            "top_eigenvalue": top.value,
            "eigenvector_residual": top.residual,
            "gradient_eigenvector_cosine": cosine,
            "landscape": _numbers(slices),
        }
        lines = [
            f"loss at the weights     {loss:12.4f}",
            *(f"m-sharpness, rho {radius:6} {rise:12.4f}" for radius, rise in rises.items()),
            f"top Hessian eigenvalue  {top.value:12.4f}",
            f"|cos(gradient, its eigenvector)| {cosine:.4f} (eigenvector to within {top.residual:.2g})",
        ]
        if perturbation is not None:
            of_perturbation = absolute_cosine(perturbation, top.vector)
            numbers["perturbation_eigenvector_cosine"] = of_perturbation
            lines.append(f"|cos(SAM's perturbation, the same)| {of_perturbation:.4f}")

        if self.block_radius is not None:
            blocks = block_sharpness(
                surface,
                block_indices(surface),
                rho=self.block_radius,
                gradient=gradient,
                eigenvector=top.vector,
            )
            numbers["block_radius"] = self.block_radius
            # a list, which loggers leave out: a row per block is too much for them
            numbers["blocks"] = [{"block": name, **block._asdict()} for name, block in blocks.items()]
            lines += ["", *self._block_lines(blocks)]
        return Result(numbers, lines)

    def _block_lines(self, blocks: dict[str, BlockSharpness]) -> list[str]:
        """A table with a row for each block."""
        width = max(len(name) for name in blocks)
        num_forward_passes = self.num_batches * (len(blocks) + 1)
        titles = ("block", "weights", "rise", "% of sum", "|cos|", "% of eigenvector")

        rows = [
            (
                name,
                f"{block.num_weights:,}",
                f"{block.rise:.5f}",
                f"{100 * block.fraction:.1f}",
                f"{block.gradient_cosine:.4f}",
                f"{100 * block.eigenvector_fraction:.1f}",
            )
            for name, block in blocks.items()
        ]
        return [
            f"each block perturbed alone, rho {self.block_radius:g} ({num_forward_passes} forward passes)",
            *(f"{row[0]:{width}} {_right_aligned(row[1:])}" for row in [titles, *rows]),
        ]

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


def _right_aligned(cells: Sequence[str]) -> str:
    widths = (12, 10, 9, 8, 17)
    return " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
