"""Trained models in use: exports, indexes of images, and what searches them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from miniclip.deploy.onnx_model import OnnxModel

__all__ = ["OnnxModel"]


def __getattr__(name: str) -> Any:
    if name != "OnnxModel":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from miniclip.deploy.onnx_model import OnnxModel

    return OnnxModel
