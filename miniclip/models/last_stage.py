"""The last stage of any network, found by what timm says of it or by the names that it gives its parts."""

from typing import Any

from torch import nn

from miniclip.errors import SettingError
from miniclip.optim.norm_layers import NORM_LAYERS

STAGES = (
    "features",
    "encoder",
    "layers",
    "blocks",
    "stages",
    "levels",
    "trunk",
    "trunk_output",
    "backbone",
)
"""Names under which networks keep their stages."""


def last_stage(backbone: nn.Module) -> list[nn.Module]:
    """The last stage of a network, and whatever with weights follows it.

    A model of timm says where its feature maps end: the last stage is what follows the last but one of
    them. Of others it goes by the names that networks give their stages.

    Raises:
        SettingError: when a model of timm says neither.
    """
    ends = _ends_of_stages(backbone)
    if ends:
        before, last = ends
        # a part of several feature maps, of which it makes all sizes at a time, is one stage
        shared = [backbone.get_submodule(last)] if before == last else []
        return [*shared, *_behind(backbone, before)]

    if hasattr(backbone, "feature_info") and not any(n in STAGES for n, _ in backbone.named_children()):
        allowed = "is not known of this architecture; choose all or none"
        raise SettingError("trainable", "last_stage", allowed)
    return _last_stage_by_name(backbone)


def _ends_of_stages(backbone: nn.Module) -> list[str]:
    """Names of the parts in which a model of timm says that its last two feature maps end, or none."""
    info: Any = getattr(backbone, "feature_info", None) or []
    ends = [entry["module"] for entry in info][-2:]
    known = {name for name, _ in backbone.named_modules()}
    return ends if len(ends) == 2 and known.issuperset(ends) else []


def _behind(backbone: nn.Module, path: str) -> list[nn.Module]:
    """What has weights and stands behind a part, on its own level or further out."""
    found: list[nn.Module] = []
    while path:
        path, _, name = path.rpartition(".")
        siblings = list(backbone.get_submodule(path).named_children())
        names = [sibling for sibling, _ in siblings]
        behind = [part for _, part in siblings[names.index(name) + 1 :]]
        found += [part for part in behind if _has_weights(part)]
    return found


def _last_stage_by_name(backbone: nn.Module) -> list[nn.Module]:
    """The last stage by the names that networks keep their stages under.

    Behind the last stage single layers may follow, such as a norm, on the same level or further out.
    """
    parts = [(name, part) for name, part in backbone.named_children() if _has_weights(part)]
    for index, (name, part) in enumerate(parts):
        if name in STAGES:
            behind = [after for _, after in parts[index + 1 :]]
            return [*_last_stage_by_name(part), *behind]

    # without such names: from the last block on, or from the last layer that is no norm
    modules = [part for _, part in parts]
    has_blocks = any(_is_block(part) for part in modules)
    stage: list[nn.Module] = []
    for part in reversed(modules):
        stage.insert(0, part)
        is_first = _is_block(part) if has_blocks else not isinstance(part, NORM_LAYERS)
        if is_first:
            break
    return stage


def _has_weights(part: nn.Module) -> bool:
    return any(True for _ in part.parameters())


def _is_block(part: nn.Module) -> bool:
    """Whether it is made of modules that are made of modules; a convolution with its norm is a layer."""
    return any(list(child.children()) for child in part.children())
