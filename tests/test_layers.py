"""Who may import whom: each floor imports lower floors only, read from the source."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "miniclip"

FLOORS = (
    {"allocator", "errors", "stop_signals"},
    {"disk_errors", "launched_jobs"},
    {"distributed", "files", "provenance", "signature", "renamed", "table_cells", "tokenizer_file"},
    {"embedding_model", "positives", "preprocessing", "tokenizers", "optim"},
    {"losses", "data", "models"},
    {"metrics"},
    {"runs"},
    {"figures", "training"},
    {"pretrained"},
    {"evaluation", "report", "config"},
    {"deploy"},
    {"commands", "integrations"},
    {"cli"},
    {"__main__"},
)
"""Packages and modules below `miniclip`, from the ground up."""

MAY_KNOW_HYDRA = {"config", "commands", "cli"}

LIGHT = {
    "allocator",
    "cli",
    "disk_errors",
    "errors",
    "files",
    "launched_jobs",
    "provenance",
    "renamed",
    "stop_signals",
}
"""What an answer to --help imports: no torch."""

HEAVY = {"wandb", "transformers", "matplotlib", "torchvision"}
"""Imported where they are used."""

FILES = sorted(PACKAGE.rglob("*.py"))


def floor_of(part: str) -> int:
    """Number of the floor of a package or module."""
    return next(number for number, parts in enumerate(FLOORS) if part in parts)


def part_of(path: Path) -> str:
    """The package or module below `miniclip` that a file belongs to; empty for the root."""
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if part == "__init__" else part


def imports(nodes: list[ast.stmt] | list[ast.AST]) -> set[str]:
    """Modules that statements import."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_every_part_has_its_floor() -> None:
    parts = {part_of(path) for path in FILES} - {""}
    assert parts <= set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_keep_to_the_floors(path: Path) -> None:
    part = part_of(path)
    for module in imports(list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))):
        head, *rest = module.split(".")
        if head in ("hydra", "omegaconf"):
            assert part in MAY_KNOW_HYDRA, f"imports {module}"
        if head == "miniclip" and rest and rest[0] != part:
            assert part == "" or floor_of(rest[0]) < floor_of(part), f"imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_imports_wait_until_they_are_needed(path: Path) -> None:
    names = {module.split(".")[0] for module in imports(ast.parse(path.read_text(encoding="utf-8")).body)}
    assert names.isdisjoint(HEAVY)
    if part_of(path) in LIGHT:
        assert "torch" not in names


def test_modules_import_each_other_in_no_circle() -> None:
    modules = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in FILES}
    waits_for = {
        name: imports(list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))) & modules.keys() - {name}
        for name, path in modules.items()
    }
    while waits_for:
        free = {name for name, others in waits_for.items() if not others & waits_for.keys()}
        assert free, f"a circle among {sorted(waits_for)}"
        waits_for = {name: others for name, others in waits_for.items() if name not in free}
