"""From a config to a run: all its parts, checked and made."""

import copy
import logging
import typing
import warnings
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from miniclip.config.instantiate import make, make_model, make_optimizer, make_precision, names_of
from miniclip.config.schema import check_signatures, check_values
from miniclip.data import DataSource, Split
from miniclip.data.caption_noise import num_exchanged
from miniclip.data.dataset import TrainingSets
from miniclip.data.eval_preprocessing import EvalPreprocessing
from miniclip.errors import counted
from miniclip.losses import Loss
from miniclip.models import CLIP, HFTextModel
from miniclip.models.frozen_towers import check_frozen
from miniclip.models.image_encoder import preprocessing_of
from miniclip.models.weights import digests_of_weights
from miniclip.optim import MuonAdamW
from miniclip.optim.muon import check_patterns
from miniclip.preprocessing import MEAN, STD, Preprocessing
from miniclip.pretrained.parts import PARTS
from miniclip.provenance import sign
from miniclip.runs import JsonlLogger, RunDirectory
from miniclip.tokenizers import Tokenizer
from miniclip.training import Trainer, TrainingSetup
from miniclip.training.device import take_gpu
from miniclip.training.reproducibility import seed_everything

log = logging.getLogger(__name__)


def build(cfg: DictConfig, run: RunDirectory) -> tuple[Trainer, TrainingSetup, JsonlLogger]:
    """Make every part of a run, and write what identifies it into its directory.

    Raises:
        UserError: when a setting or a file is wrong; nothing has been trained yet.
    """
    check(cfg)
    _tell_parts_not_restored(cfg)
    config = typing.cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))
    run.write_config(OmegaConf.to_yaml(cfg, resolve=True))

    trainer: Trainer = make(cfg, "trainer")
    take_gpu(trainer.device)

    source: DataSource = make(cfg, "data")
    with names_of(cfg, "data"):
        sets = source.training_sets()
    tokenizer = _fitted_tokenizer(cfg, sets.train.split)
    tokenizer.save(run.tokenizer)
    facts = _facts_of_sets(sets, tokenizer, caption_noise=source.caption_noise)

    # the model's first weights depend on nothing that was drawn before
    seed_everything(cfg.seed)
    model = make_model(cfg, vocab_size=tokenizer.vocab_size)
    model.to(trainer.device).to(memory_format=torch.channels_last)
    if isinstance(model.text_encoder, HFTextModel):  # so that a checkpoint needs no file beside it
        config["encoder"]["text"]["config"] = model.text_encoder.config
        _tell_other_vocabulary(cfg)

    setup = TrainingSetup(
        config=config,
        model=model,
        tokenizer=tokenizer,
        train_set=sets.train,
        val_set=sets.val,
        test_set=sets.test,
        loss=typing.cast(Loss, model.loss),
        optimizer=make_optimizer(cfg, model),
        schedule=make(cfg, "schedule"),
        precision=make_precision(cfg, trainer),
        preprocessing=_preprocessing(cfg, model),
        feature_folder=source.cache_dir if source.keeps_features else None,
        signature=sign(config["data"]),
    )
    run.write_environment(
        trainer.device,
        facts,
        weights=digests_of_weights(config),
        optimizer=_shares(setup.optimizer.base_optimizer),
    )
    return trainer, setup, make(cfg, "logger")


def _tell_parts_not_restored(cfg: DictConfig) -> None:
    """Warn of parts that no checkpoint may name, before they are trained with."""
    for part, known in PARTS.items():
        target = OmegaConf.select(cfg, f"{part}._target_")
        if target is not None and target not in known:
            log.warning(
                "%s._target_=%s is none of MiniCLIP's own parts, which are all that a checkpoint may call: "
                "this run can train and resume, but miniclip evaluate, embed, export and "
                "MiniCLIP.from_pretrained will refuse it. To have its model read, name the class in "
                "miniclip/pretrained/parts.py, as CONTRIBUTING.md tells.",
                part,
                target,
            )


def _fitted_tokenizer(cfg: DictConfig, train_split: Split) -> Tokenizer:
    """The tokenizer, which has read the captions that train."""
    tokenizer: Tokenizer = make(cfg, "tokenizer")
    tokenizer.fit(caption for captions in train_split.captions for caption in captions)
    return tokenizer


def _facts_of_sets(sets: TrainingSets, tokenizer: Tokenizer, *, caption_noise: float) -> dict[str, Any]:
    """What a run's environment.json says of each split, by its name; see `_facts`."""
    present = [dataset for dataset in sets if dataset is not None]
    facts = {dataset.split.name: _facts(dataset.split, tokenizer) for dataset in present}

    of_train = facts[sets.train.split.name]
    if sets.train.is_streamed:  # these are the first rows alone
        of_train["streamed"] = True
    if caption_noise:
        exchanged = num_exchanged(len(sets.train.split), caption_noise)
        of_train["images_with_exchanged_captions"] = exchanged
    return facts


def _preprocessing(cfg: DictConfig, model: CLIP) -> dict[str, Any]:
    """What an image needs before the model sees it, for the checkpoint; what the weights saw is told."""
    wanted = preprocessing_of(model.image_encoder)
    unlike = unlike_the_run(wanted, eval_crop=cfg.data.eval_crop)
    if unlike:
        log.info("The image tower's weights saw other images than this run's: %s.", "; ".join(unlike))
    size, crop = cfg.data.image_size, cfg.data.eval_crop
    return EvalPreprocessing(size, crop=crop, trained_with=wanted).state()


def _tell_other_vocabulary(cfg: DictConfig) -> None:
    """Warn of a Hugging Face text model that reads the token ids of a tokenizer other than its own."""
    name, of_tokenizer = cfg.encoder.text.name, cfg.tokenizer.get("name")
    if of_tokenizer != name:
        named = cfg.tokenizer._target_.rpartition(".")[2] if of_tokenizer is None else of_tokenizer
        log.warning(
            "encoder.text.name=%s was trained with the token ids of its own tokenizer, and the tokenizer "
            "here is %s: unless they have one vocabulary, take tokenizer=of_text_encoder.",
            name,
            named,
        )


def unlike_the_run(wanted: Preprocessing, *, eval_crop: str) -> list[str]:
    """In what the images that weights were trained with differ from a run's, a phrase each."""
    found = []
    if (wanted.mean, wanted.std) != (MEAN, STD):
        found.append(f"mean {list(wanted.mean)} and deviation {list(wanted.std)}, which are applied")
    if wanted.interpolation not in (None, "bicubic"):
        found.append(f"{wanted.interpolation} interpolation, where this run has bicubic")
    if wanted.crop_fraction is not None and (wanted.crop_fraction, eval_crop) != (1.0, "center"):
        crop = f"a center crop of {wanted.crop_fraction:.3g} of the side"
        found.append(f"{crop}, where this run has data.eval_crop={eval_crop}")
    return found


def _facts(split: Split, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a run's environment.json says of a split; its captions are encoded on the way."""
    num_truncated = tokenizer.precompute(caption for captions in split.captions for caption in captions)
    num_captions = int(split.captions.counts.sum())
    if num_truncated:
        log.warning(
            "Of %s (%s) %d longer than context_length=%d tokens, cut off there.",
            counted(num_captions, "caption"),
            split.name,
            num_truncated,
            tokenizer.context_length,
        )
    return {
        "images": len(split),
        "captions": num_captions,
        "truncated_captions": num_truncated,
        "fingerprint": split.fingerprint(),
    }


def _shares(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Which parameters Muon trains and which AdamW, told and for environment.json; nothing of others."""
    if not isinstance(optimizer, MuonAdamW):
        return {}

    shares = optimizer.shares()
    muon, adamw = shares["muon"], shares["adamw"]
    log.info(
        "Muon trains %s of %s weights, AdamW %s of %s.",
        counted(muon["tensors"], "tensor"),
        f"{muon['weights']:,}",
        counted(adamw["tensors"], "tensor"),
        f"{adamw['weights']:,}",
    )
    return shares


def check(cfg: DictConfig) -> None:
    """Find wrong settings before any data is read.

    Keys and types are held against the signatures; then every part is made on a device without
    memory, so that each says itself what it does not allow.

    Raises:
        UserError: names the setting, its value, what is allowed and how to change it.
    """
    check_values(cfg)
    source: DataSource = make(cfg, "data")  # first, for a model may have to be downloaded

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")  # what is worth saying is said when the parts are made
        model = make_model(cfg, vocab_size=1)

    trainer: Trainer = make(cfg, "trainer")
    optimizer = make_optimizer(cfg, _small_copy(model, trainer.device)).base_optimizer
    if isinstance(optimizer, MuonAdamW):
        with names_of(cfg, "optimizer"):
            check_patterns(optimizer.adamw_patterns, [name for name, _ in model.named_parameters()])

    if source.keeps_features:
        check_frozen(model)

    for part in ("tokenizer", "schedule", "logger", "eval"):
        make(cfg, part)


def _small_copy(model: CLIP, device: torch.device) -> CLIP:
    """A model of the same modules and names, whose parameters have one element each."""
    small: dict[torch.nn.Parameter, torch.nn.Parameter] = {}
    copied = copy.deepcopy(model)
    for module in copied.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if parameter not in small:
                values = torch.ones([1] * parameter.ndim, device=device)
                small[parameter] = torch.nn.Parameter(values, requires_grad=parameter.requires_grad)
            module._parameters[name] = small[parameter]
    return copied


def check_part(cfg: DictConfig, part: str) -> None:
    """Find wrong settings of one part; see `check`."""
    check_signatures(cfg, part)
    make(cfg, part)
