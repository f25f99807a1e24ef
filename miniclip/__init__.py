"""MiniCLIP: a lab bench for small-scale contrastive image-text learning."""

__version__ = "0.1.0"
