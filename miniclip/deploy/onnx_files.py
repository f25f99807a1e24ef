"""The files of a model in ONNX, and how images and texts become its inputs; without torch."""

from typing import Any, Literal

Precision = Literal["fp32", "fp16", "int8"]
"""Of weights: "fp16" is also that of the arithmetic, "int8" is that of convolutions and matrix products."""

IMAGE, TEXT, TOKENIZER, CONFIG = "image.onnx", "text.onnx", "tokenizer.json", "onnx.json"

LIBRARY = "miniclip-onnx"
"""What `CONFIG` says it is of."""

FORMAT = 1
"""Of `CONFIG`."""

IMAGES, TOKEN_IDS, ATTENTION_MASK, FEATURES = "images", "token_ids", "attention_mask", "features"
"""Inputs and output of the two graphs: `images (B, 3, S, S)` float32; `token_ids`, `attention_mask (B, L)`
int64 and bool; `features (B, D)` float32, of length 1."""

Config = dict[str, Any]
"""Content of `CONFIG`."""
