"""Words that Hydra would accept and take for something else are refused, and no others."""

import pytest

from miniclip.config.compose import compose
from miniclip.config.groups import HOME
from miniclip.config.refusals import refuse_misspelled
from miniclip.errors import SettingError, UserError


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("logger=null", "choose logger=none"),
        ("trainer=null", "trainer cannot be left out"),
        ("experiments=null", "type '~experiments' to leave it out"),
        ("optimizer/trigger=null", "type '~optimizer/trigger' to leave it out"),
        ("encoder=null", "encoder has no options of its own"),
        ("encoder=vit_b_32", "Did you mean encoder/image=vit_b_32?"),
        ("optimizer=[sam,adamw]", "takes one option"),
        ("logger=[none,wandb]", "none goes alone"),
        ("experiments=wandb/search", "start it with: wandb sweep experiments/wandb/search.yaml"),
        ("+experiments=[rho_sweep,wandb/mlp_width]", "wandb sweep experiments/wandb/mlp_width.yaml"),
        ("experiments=rho_sweep,wandb/linformer_k.yaml", "wandb sweep experiments/wandb/linformer_k.yaml"),
        ("experiments/wandb=search", "wandb sweep experiments/wandb/search.yaml"),
        ("data=1", "is no option of data"),
        ("=1", "names no setting"),
        ("", "names no setting"),
    ],
)
def test_words_that_hydra_takes_for_something_else(word: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_misspelled([word])
    assert said in str(caught.value)


def test_what_may_be_left_out_is_by_the_word_that_is_advised() -> None:
    assert "trigger" not in compose("optimizer=aesam", "~optimizer/trigger").optimizer
    assert compose("~experiments").name == "miniclip"


def test_no_sweep_of_wandb_composes_and_the_message_is_one_line() -> None:
    sweeps = sorted(path.stem for path in (HOME / "experiments" / "wandb").glob("*.yaml"))
    assert "search" in sweeps
    for name in sweeps:
        with pytest.raises(UserError) as caught:
            compose(f"experiments=wandb/{name}")
        assert str(caught.value) == (
            f"experiments=wandb/{name}: is a sweep of Weights & Biases; "
            f"start it with: wandb sweep experiments/wandb/{name}.yaml"
        )


def test_an_experiment_with_the_name_of_a_sweep_of_wandb_is_no_such_sweep() -> None:
    for name in ("rho_sweep", "mlp_width", "linformer_k"):
        refuse_misspelled([f"experiments={name}"])


def test_a_sweep_of_wandb_that_does_not_exist_is_no_option() -> None:
    with pytest.raises(UserError, match="there is no such option"):
        compose("experiments=wandb/nowhere")


@pytest.mark.parametrize(
    "word",
    [
        *("+hydra.job.env_set.A=1", "+hydra.job.env_copy=[A]", "++hydra.run.dir=x", "+hydra.verbose=true"),
        *("+hydra.job_logging.root.level=INFO", "+hydra.callbacks.mine._target_=a.B"),
        *("+hydra.launcher.n_jobs=2", "+hydra.sweeper.params.seed=1,2", "+hydra/launcher=joblib"),
    ],
)
def test_what_hydra_reads_may_be_added(word: str) -> None:
    refuse_misspelled([word])


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingError) as caught:
        refuse_misspelled(["data.root=https://someone:hunter2@example.org/x"])
    assert "data.root" in str(caught.value) and "hunter2" not in str(caught.value)
