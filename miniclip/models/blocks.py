"""The blocks of a model, of any architecture: what its measures by layer have one row for."""

from collections.abc import Iterator

from torch import nn

from miniclip.models.clip import CLIP
from miniclip.optim.norm_layers import NORM_LAYERS

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Modules that hold others in a row, and are no block themselves."""


def blocks_of(model: CLIP) -> dict[str, list[nn.Parameter]]:
    """The parameters of each block of both towers, and of the projection behind them, by the block's name.

    A tower is divided where its modules have numbers: a block is the first numbered module on the way to a
    parameter that is more than a container, such as `layer1.0` of a ResNet or `blocks.3` of a transformer;
    of a network of plain layers in a row it is each layer. What stands before the first block is the image
    tower's "stem" and the text tower's "embeddings"; what stands behind the last one, as a norm does, is
    the "head"; what stands between two belongs to the first of them. Each tower's own linear layer is its
    "projection". The temperature's and the loss's parameters belong to no block.
    """
    towers = (
        ("image", model.image_encoder, "stem"),
        ("text", model.text_encoder, "embeddings"),
    )

    blocks: dict[str, list[nn.Parameter]] = {}
    for tower, encoder, first in towers:
        for block, parameter in _of_tower(encoder, first):
            blocks.setdefault(f"{tower} {block}", []).append(parameter)

    shared = list(model.projection.parameters())
    if shared:
        blocks["projection"] = shared
    return blocks


def modules_of_blocks(encoder: nn.Module) -> list[nn.Module]:
    """The blocks of a network, in order; empty where it is layers in a row."""
    paths = (_block_path(encoder, name, of_layers=False) for name, _ in encoder.named_parameters())
    return [encoder.get_submodule(path) for path in dict.fromkeys(filter(None, paths))]


def _of_tower(encoder: nn.Module, first: str) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter of a tower behind the name of its block.

    Args:
        first: what stands before the first block.
    """
    named = dict(encoder.named_parameters())
    blocks = [_block_name(encoder, name, of_layers=False) for name in named]
    if not any(blocks):
        blocks = [_block_name(encoder, name, of_layers=True) for name in named]
    last = max((index for index, block in enumerate(blocks) if block), default=-1)

    current = first
    for index, (name, parameter) in enumerate(named.items()):
        current = blocks[index] or ("head" if index > last >= 0 else current)
        yield ("projection" if name.startswith("proj.") else current), parameter


def _block_name(encoder: nn.Module, name: str, *, of_layers: bool) -> str | None:
    """The path of a block without the attribute that holds the whole network; see `_block_path`."""
    path = _block_path(encoder, name, of_layers=of_layers)
    if path is None:
        return None
    first, _, rest = path.partition(".")
    return rest if first in ("backbone", "model") and rest else path


def _block_path(encoder: nn.Module, name: str, *, of_layers: bool) -> str | None:
    """The path of the numbered module that a parameter of this name lies in, or None.

    Args:
        of_layers: also a single layer that a container numbers.
    """
    module, steps = encoder, name.split(".")[:-1]  # without the parameter's own name
    depth = 0
    for length, step in enumerate(steps, start=1):
        module = module.get_submodule(step)
        if _is_block(module, step, of_layers=of_layers):
            depth = length
        if depth and (depth < length or not isinstance(module, CONTAINERS)):
            break

    return ".".join(steps[:depth]) or None


def _is_block(module: nn.Module, name: str, *, of_layers: bool) -> bool:
    """Whether a module of this name is one of several, which have numbers."""
    if not _is_layer(module):
        return any(letter.isdigit() for letter in name)
    return of_layers and name.isdigit() and not isinstance(module, NORM_LAYERS)


def _is_layer(module: nn.Module) -> bool:
    """Whether no weights lie deeper in it; an activation beside them is none."""
    return not any(True for child in module.children() for _ in child.parameters())
