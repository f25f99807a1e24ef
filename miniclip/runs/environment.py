"""What a run was made with: versions, machine and git revision."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("miniclip", "torch", "torchvision", "hydra-core", "linformer", "tokenizers", "numpy")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, machine and git revision, as `environment.json` has them."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu_threads": torch.get_num_threads(),
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "versions": {name: _version(name) for name in PACKAGES},
        "git_revision": git_revision(),
    }


def git_revision() -> str | None:
    """The revision of MiniCLIP's own checkout, with "+changes" if it was edited; None outside git."""
    folder = Path(__file__).parent
    try:
        revision = _git(folder, "rev-parse", "HEAD")
        edited = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{revision}+changes" if edited else revision


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
