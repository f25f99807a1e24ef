"""Who may import whom: the layers of the package, read from its source."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "miniclip"
PARTS = {"data", "models", "losses", "optim", "evaluation", "tracking"}
BELOW = {"errors", "files"}
ALLOWED = {
    # the parts name each other's types; what they may not see is whoever puts them together
    **dict.fromkeys(PARTS, PARTS | BELOW),
    "training": PARTS | BELOW | {"signature", "training"},
    "report": {"evaluation", "tracking", "data", "report"} | BELOW,
    "hints": {"errors"},
    "composing": {"errors", "hints", "optuna_sweeper"},
    "optuna_sweeper": {"errors"},
    "sweep": {"errors", "tracking"},
    "build": PARTS
    | BELOW
    | {"composing", "hints", "optuna_sweeper", "provenance", "signature", "sweep", "training"},
    "restore": PARTS | BELOW | {"build", "composing", "provenance", "signature", "training"},
    "evaluate": PARTS | BELOW | {"training", "report"},
    "job": {*PARTS, "composing", "errors", "training", "report", "sweep", "build", "evaluate"},
    "cli": {
        "",
        "hints",
        *PARTS,
        *BELOW,
        "composing",
        "training",
        "report",
        "build",
        "restore",
        "evaluate",
        "job",
    },
    "clip_benchmark": PARTS | BELOW | {"restore"},
    "files": {"errors"},
    "provenance": set(),
    "signature": set(),
    "errors": set(),
}
MAY_KNOW_HYDRA = {"build", "cli", "composing", "job", "optuna_sweeper", "restore"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_imports_keep_to_the_layers() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE]
    assert len(files) > 20
    for path in files:
        layer = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for module in imports(path):
            head, _, rest = module.partition(".")
            if head == "miniclip":
                assert rest.split(".")[0] in ALLOWED[layer], f"{path} imports {module}"
            if head in ("hydra", "omegaconf"):
                assert layer in MAY_KNOW_HYDRA, f"{path} imports {module}"


def test_heavy_imports_wait_until_they_are_needed() -> None:
    for path in PACKAGE.rglob("*.py"):
        top_level = ast.parse(path.read_text(encoding="utf-8")).body
        names = {
            alias.name.split(".")[0]
            for node in top_level
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            node.module.split(".")[0]
            for node in top_level
            if isinstance(node, ast.ImportFrom) and node.module
        }
        assert names.isdisjoint({"wandb", "transformers", "matplotlib"}), path
        if path.name == "cli.py":
            assert "torch" not in names
