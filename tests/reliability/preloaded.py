"""What the server of trials imports once.

W&B is none of it: it makes a folder as it is imported, which the first fork that ends would remove.
"""

import importlib
import sys

sys.modules["wandb"] = None  # type: ignore[assignment]  # timm does without it
importlib.import_module("timm")
del sys.modules["wandb"]

for name in ("tests.reliability.trials", "miniclip.commands.job", "matplotlib.pyplot"):
    importlib.import_module(name)
