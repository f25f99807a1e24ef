"""Packaging, the files that GitHub and pre-commit read, and the paths that CONTRIBUTING.md names."""

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def setup_section(name: str) -> configparser.SectionProxy:
    """A section of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser[name]


def parsed(path: Path) -> Any:
    """The content of a YAML file."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_every_package_is_shipped() -> None:
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "miniclip").rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    shipped = set(setup_section("options")["packages"].split())
    assert shipped == packages | {"miniclip.conf", "miniclip.experiments"}


def test_the_types_are_shipped() -> None:
    assert (ROOT / "miniclip" / "py.typed").is_file()
    assert "py.typed" in setup_section("options.package_data")["miniclip"].split()


def test_the_workflow_tests_linux_and_smokes_the_others() -> None:
    jobs = parsed(WORKFLOW)["jobs"]
    (script,) = (step["run"] for step in jobs["tests"]["steps"] if "run" in step)
    assert (ROOT / script).is_file()
    assert jobs["smoke"]["strategy"]["matrix"]["os"] == ["macos-latest", "windows-latest"]
    commands = [step["run"] for step in jobs["smoke"]["steps"] if "run" in step]
    assert commands[1:3] == ['python -c "import miniclip"', "python run.py --cfg job"]
    assert commands[3].startswith("python run.py ") and "trainer.budget.steps=10" in commands[3].split()


def test_commits_are_checked_as_in_continuous_integration() -> None:
    repositories = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = [hook["id"] for repository in repositories for hook in repository["hooks"]]
    assert hooks == ["ruff-check", "ruff-format", "mypy"]


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_issue_templates_are_forms(name: str) -> None:
    form = parsed(ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert {"name", "description", "body"} <= form.keys()
    assert all({"label"} <= field["attributes"].keys() for field in form["body"])
    identifiers = [field["id"] for field in form["body"]]
    assert len(set(identifiers)) == len(identifiers)


def test_a_bug_report_asks_for_what_a_run_leaves() -> None:
    form = parsed(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug_report.yml")
    labels = {field["attributes"]["label"] for field in form["body"]}
    assert {"environment.json", "status.json", "train.log"} <= labels


def paths_of(text: str) -> set[str]:
    """What stands in backticks on one line and looks like a path of the checkout."""
    quoted = re.findall(r"`([^`\s]+)`", text)
    tops = {path.name for path in ROOT.iterdir()}
    return {word for word in quoted if word.split("/")[0] in tops}


def test_every_path_of_contributing_exists() -> None:
    paths = paths_of((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    assert len(paths) > 20
    assert {path for path in paths if not (ROOT / path).exists()} == set()
