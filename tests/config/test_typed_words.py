"""Values that Hydra's grammar cannot read are text; what cannot be text either is told in one line."""

import shlex
from pathlib import Path

import pytest

from miniclip.config.compose import compose
from miniclip.config.typed_words import as_hydra_reads
from miniclip.errors import UserError
from tests.conftest import TINY
from tests.in_process import train_in_process

TEXTS = [
    *("größe", "/tmp/ü", "/tmp/P (1)", "photo(1)", "a=b", "/tmp/läufe/x=1", "a#b", "a;b", "<a>", "犬"),
    *("C:\\ü\\", "ü\\(1)", "$HOME/ü", "ü ", "ü\\"),
]


NO_LIST = "is no whole list or mapping; quote each text in it, as in 'name=[\"a b\"]'"


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_that_can_only_be_text_is_that_text(text: str) -> None:
    assert compose(f"name={text}").name == text


@pytest.mark.parametrize(
    "word",
    [
        *("name=a b", "name=a:b", "seed=0,1", "seed=range(1,3)", "seed=choice(1,2)", "~logger", "-m"),
        *("name='ü'", "name=[ü]", "name=ü,ö", "name=${seed}", "name=ü${seed}", "ü=1", "--cfg", "--x=ü"),
        *("name=", "name==b", "name=null", "name=C:\\a", "name=a\\,b"),
    ],
)
def test_all_else_stays_as_it_was_typed(word: str) -> None:
    assert as_hydra_reads([word]) == [word]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("name=ü,ö", "name=ü,ö: cannot be read; type text in quotes: 'name=\"ü,ö\"'"),
        ("name=ü${seed}", "name=ü${seed}: cannot be read; type text in quotes: 'name=\"ü${seed}\"'"),
        ('name="ü" b', 'name="ü" b: cannot be read; type text in quotes: \'name="\\"ü\\" b"\''),
        ("name=[ü]", f"name=[ü]: {NO_LIST}"),
        ("name=[a,[b]", f"name=[a,[b]: {NO_LIST}"),
        ("nam=ü", "nam=ü: there is no setting nam. Did you mean name?"),
        ("größe=1", "größe=1: größe is no name of a setting."),
        ("name", "name: is no setting; type name=VALUE"),
    ],
)
def test_what_is_no_text_either_is_told_in_one_line(word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(word)
    assert str(caught.value) == said


@pytest.mark.parametrize("word", ["name=ü,ö", "name=it's ü"])
def test_what_is_advised_can_be_typed(word: str) -> None:
    with pytest.raises(UserError) as caught:
        compose(word)
    (advised,) = shlex.split(str(caught.value).partition("in quotes: ")[2])
    assert compose(advised).name == word.partition("=")[2]


def test_a_run_and_the_jobs_of_a_sweep_take_such_text(tmp_path: Path) -> None:
    place = tmp_path / "läufe (1)"
    settings = [*TINY, "name=größe=1", "trainer.batch_size=100000"]  # which ends each before it trains
    done = train_in_process(*settings, f"hydra.run.dir={place}/a=b", cwd=tmp_path)
    assert done.returncode == 1 and "trainer.batch_size=100000" in done.stderr
    assert (place / "a=b" / ".hydra").is_dir()

    done = train_in_process("-m", *settings, "seed=0,1", f"hydra.sweep.dir={place}/sweep", cwd=tmp_path)
    assert "2 jobs not completed" in done.stderr
    names = [folder.parent.name for folder in sorted(place.glob("sweep/*/job.json"))]
    assert all(name.endswith(",name=größe=1") for name in names) and len(names) == 2
