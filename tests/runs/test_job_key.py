"""Keys of jobs: what is computed, under the names of every version."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from miniclip.config.compose import compose
from miniclip.runs.job_key import changes_nothing, job_key, read_job_key
from miniclip.runs.sweep import Sweep
from tests.conftest import TINY
from tests.golden.make import GOLDEN


def key(*overrides: str) -> str:
    return job_key(OmegaConf.to_container(compose(*TINY, *overrides), resolve=True))  # type: ignore[arg-type]


def test_a_key_is_what_is_computed_not_where() -> None:
    plain = key()
    same = [
        "name=other",
        "device=cpu",
        "logger=wandb",
        "trainer.num_workers=2",
        "trainer.resume=/a/b",
        "data.cache_dir=/a/b",
        "loss.chunk_size=8",
        "loss.compile_tiles=true",
        "encoder.image.checkpoint_activations=true",
    ]
    assert {key(change) for change in same} == {plain}
    others = [
        "seed=1",
        "optimizer.rho=0.1",
        "data.cache=memory",
        "trainer.budget.epochs=9",
        "data.limit=30",
        "encoder/image=resnet34",
    ]
    assert len({key(change) for change in others} | {plain}) == len(others) + 1
    here, there = (key("data=flickr8k", f"data.root={root}/flickr") for root in ("/here", "/there"))
    assert here == there != key("data=flickr8k", "data.root=/here/coco")
    hubs = {key("data=hub", f"data.hub={user}/flickr30k") for user in ("lmms-lab", "nlphuji")}
    assert len(hubs) == 2  # no paths, though they have a slash


@pytest.mark.parametrize(
    "setting",
    ["name", "logger.wandb.mode", "eval.tasks", "_arm.rho", "trainer.num_workers", "data.cache_dir"],
)
def test_what_changes_nothing_of_a_job(setting: str) -> None:
    assert changes_nothing(setting)


@pytest.mark.parametrize("setting", ["seed", "data.cache", "encoder.text.width", "optimizer._target_"])
def test_what_changes_a_job(setting: str) -> None:
    assert not changes_nothing(setting)


def test_a_helper_key_is_no_part_of_a_job_under_its_old_name_as_well() -> None:
    config = {"optimizer": {"rho": 0.1}, "trainer": {"budget": {"epochs": 5}}}
    keys = {
        job_key({**config, **helper}) for helper in ({}, {"arm": {"rho": 0.1}}, {"_arm": 1, "_epochs": 5})
    }
    assert len(keys) == 1 != job_key({**config, "seed": 1})


def test_a_job_of_an_older_version_is_known_by_its_config(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    shutil.copytree(GOLDEN / "sweep", folder)
    first, second = (job.path for job in Sweep(folder).jobs())
    old_keys = json.loads((folder / "sweep.json").read_text())["keys"]
    today = [job_key(yaml.safe_load((path / "config.yaml").read_text())) for path in (first, second)]
    assert [read_job_key(path) for path in (first, second)] == today
    assert not set(today) & set(old_keys)

    # a launch of today goes on with the folder; its plan has the keys that its jobs have today
    Sweep(folder).claim(today)
    assert json.loads((folder / "sweep.json").read_text()) == {"format": 2, "keys": today}

    # one that ended before it had a config keeps its key, and no job at all has none
    (first / "config.yaml").unlink()
    assert read_job_key(first) == old_keys[0]
    assert read_job_key(tmp_path) is None


def test_a_job_is_known_by_its_config_where_its_key_is_lost(tmp_path: Path) -> None:
    """One that nothing tells the key of is no job's to write over."""
    job = tmp_path / "0_seed=0"
    job.mkdir()
    config = {"seed": 0, "optimizer": {"rho": 0.05}}
    (job / "config.yaml").write_text(yaml.safe_dump(config))
    (job / "job.json").write_text('{"key": "a"')
    sweep, key = Sweep(tmp_path), job_key(config)
    (known,) = sweep.jobs()
    assert known.key == key and "job.json is damaged" in known.damages[0]
    assert not sweep.is_of_another_job(job, key)
    (job / "config.yaml").write_text("")
    assert sweep.is_of_another_job(job, key) and [job.path for job in sweep.jobs()] == [job]
    assert not sweep.is_of_another_job(tmp_path / "1_seed=1", key)
