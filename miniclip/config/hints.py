"""What to tell of a setting that does not exist: the name that the user meant."""

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf

from miniclip.config.groups import CONF, HOME, SEVERAL, content_of, groups
from miniclip.config.names import COMMON_NAMES

NO_SETTING = re.compile(r"Could not (?:override|delete) (?:from config\. )?'([^'=]+)(?:=[^']*)?'")
"""What Hydra says of a setting or group that the config lacks: lr=0.1."""

NO_OPTION = re.compile(r"Could not (?:find|load) '([^']+)/([^'/]+)'")
"""Of an option that its group lacks: encoder/text=nosuch."""

CHOSEN_TWICE = re.compile(r"Multiple values for ([\w/]+)\. To override .*: ([^']+)'")
"""Of an option that is added where one is chosen by default: +data=csv."""

ADDED_TWICE = re.compile(r"An item is already at '([^']+)'")
"""Of a setting that is added and that the config holds: +seed=1."""

SEVERAL_VALUES = re.compile(r"Ambiguous value for argument '(.*)'")
"""Of several values without -m: optimizer.rho=0,0.05."""

MOST_NAMED = 3
"""Options that a message names of those that have a setting."""


def is_named(wrong: str, words: Sequence[str] = ()) -> str:
    """ " Did you mean SETTING?" for a key that does not exist, or nothing.

    Args:
        wrong: the key as it was typed.
        words: all that was typed, of which an option of a group is recognized: model=resnet50.
    """
    wrong = wrong.lstrip("+~").partition("@")[0]

    # from the surest reason to the weakest
    if wrong.startswith("hydra."):
        meant = _by_slash(wrong) or _of_hydra_like(wrong)
    else:
        meant = (
            _by_slash(wrong)
            or _by_value(wrong, words)
            or _by_wrapping(wrong, words)
            or _by_common_name(wrong, words)
            or _by_likeness(wrong, words)
        )

    if not meant or meant == wrong:
        return ""

    value = _value(wrong, words)
    is_option = value in groups().get(meant, [])
    return f" Did you mean {meant}={value}?" if is_option else f" Did you mean {meant}?"


def option_like(group: str, wrong: str) -> str:
    """The option of a group that a wrong one is most like, or nothing."""
    options = groups().get(group, [])
    simple = {re.sub(r"[\W_]", "", option).lower(): option for option in options}
    word = re.sub(r"[\W_]", "", wrong).lower()
    if word in simple:
        return simple[word]

    # a beginning is surer than a likeness: coco is coco_captions
    starts = [option for short, option in simple.items() if word and short.startswith(word)]
    near = starts or [simple[short] for short in difflib.get_close_matches(word, simple, n=1, cutoff=0.5)]
    return near[0] if near else ""


def settings_of_hydra(kind: Any = HydraConf, prefix: str = "hydra") -> Iterator[tuple[str, bool]]:
    """Hydra's own settings and parts, and whether any key may stand below them."""
    for name, hint in typing.get_type_hints(kind).items():
        path = f"{prefix}.{name}"
        yield path, hint is Any or typing.get_origin(hint) is dict
        if dataclasses.is_dataclass(hint):
            yield from settings_of_hydra(hint, path)


def _of_hydra_like(wrong: str) -> str:
    """Hydra's own setting that is spelled most alike."""
    known = [path for path, _ in settings_of_hydra()]
    return "".join(difflib.get_close_matches(wrong, known, n=1, cutoff=0.7))


def explained(message: str, words: Sequence[str] = (), *, sweeps: bool = False) -> str:
    """What Hydra says of a wrong word, in our words and with the right spelling.

    Args:
        sweeps: whether several values can be a sweep where the words were typed.
    """
    key = NO_SETTING.search(message)
    if key:
        return _of_no_setting(key[1], words)

    option = NO_OPTION.search(message)
    if option:
        return _of_no_option(option[1], option[2])

    twice = CHOSEN_TWICE.search(message)
    if twice:
        return f"{twice[1]}={twice[2]} goes without a +, and can be given once."

    there = ADDED_TWICE.search(message)
    if there:
        return f"{_typed(there[1], words)}: {there[1]} exists and goes without a +."

    several = SEVERAL_VALUES.search(message)
    if several:
        return _of_several_values(several[1], sweeps=sweeps)

    # what Hydra says of its grammar ends with its documentation's address
    return message.partition("\nSee https://")[0]


def _of_no_setting(key: str, words: Sequence[str]) -> str:
    """A key that the config lacks: either nothing has it, or nothing that is chosen."""
    typed = _typed(key, words)
    if key not in _known_keys() or _by_wrapping(key, words):
        return f"{typed}: there is no setting {key}.{is_named(key, words)}"

    reason = not_chosen(key)
    # a part that this option leaves out
    if not reason and "/" not in key and _by_slash(key):
        reason = f"an option is chosen with {_by_slash(key)}={_value(key, words)}"
    if reason:
        return f"{typed}: {reason}"

    noun = "group" if "/" in key else "setting"
    group = key.replace("/", ".").rpartition(".")[0].replace(".", "/")
    return f"{typed}: the option chosen for {group} has no {noun} {key}; {_holders(group, key)}."


def _of_no_option(group: str, name: str) -> str:
    """An option that its group lacks, with the one that was meant, or the other group that has it."""
    near = option_like(group, name)
    elsewhere = [other for other, options in groups().items() if name in options]

    hint = f" Did you mean {group}={near}?" if near else ""
    if not near and elsewhere:
        hint = f" Did you mean {elsewhere[0]}={name}?"
    return f"{group}={name}: there is no such option.{hint}{listed(groups().get(group, []))}"


def _of_several_values(word: str, *, sweeps: bool) -> str:
    """A word with commas, where it is no sweep."""
    name, _, values = word.partition("=")
    sweep = f"type -m {word} for a sweep, " if sweeps else "type "
    return f"{word}: holds several values; {sweep}'{name}=[{values}]' for a list"


def _holders(group: str, key: str) -> str:
    """Which options of a group have a setting, the default first, as a person reads it."""
    default = _chosen(group, ())
    options = sorted(groups().get(group, []), key=lambda option: option != default)
    holders = [
        f"{group}={option}" for option in options if key in _keys(CONF / group / f"{option}.yaml", group)
    ]
    if not holders:
        return "others have"
    if len(holders) == 1:
        return f"{holders[0]} has it"

    if len(holders) > MOST_NAMED + 1:
        holders[MOST_NAMED:] = [f"{len(holders) - MOST_NAMED} others"]
    return f"{', '.join(holders[:-1])} and {holders[-1]} have it"


def _keys(path: Path, group: str) -> set[str]:
    """Settings of an option and of the files it inherits from, and by slashes the groups below it."""
    content = content_of(path)
    found = set(_paths(content, group.replace("/", ".") + "."))
    for entry in content.get("defaults", []):
        if isinstance(entry, dict):
            found |= {f"{group}/{name}" for name in entry}
        elif entry != "_self_":
            found |= _keys(path.parent / f"{entry.partition('@')[0]}.yaml", group)
    return found


def not_chosen(key: str) -> str:
    """How to choose the option that a setting is of, where several can be chosen; or nothing.

    Args:
        key: one that the config lacks: "eval.tasks.few_shot.shots" or "logger.wandb.mode".
    """
    for group, noun in SEVERAL.items():
        prefix = group.replace("/", ".") + "."
        name = key.removeprefix(prefix).partition(".")[0]
        if key.startswith(prefix) and name in groups()[group]:
            return f"the {noun} {name} is not chosen; choose it with {group}=[{name}]"
    return ""


def listed(options: Sequence[str]) -> str:
    """A line with the options to choose from, or nothing where there are none."""
    return f"\nOptions: {', '.join(options)}" if options else ""


def _typed(key: str, words: Sequence[str]) -> str:
    """The word that sets a key."""
    return next((word for word in words if _key(word) == key), key)


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+~")


def _value(key: str, words: Sequence[str]) -> str:
    return next((word.partition("=")[2] for word in words if _key(word) == key), "")


def _by_slash(wrong: str) -> str:
    """encoder.image -> encoder/image."""
    slashed = wrong.replace(".", "/")
    return slashed if slashed in groups() else ""


def _by_value(wrong: str, words: Sequence[str]) -> str:
    """The group whose option follows a wrong name of a model: encoder=bag -> encoder/text."""
    if COMMON_NAMES.get(wrong) != "encoder/image":
        return ""

    value = _value(wrong, words)
    own = [
        group for group, options in groups().items() if value in options and group.startswith("encoder/")
    ]
    return own[0] if len(own) == 1 else ""


def _by_common_name(wrong: str, words: Sequence[str]) -> str:
    """The field's names, of which the last part counts: train.lr -> optimizer.base.lr."""
    last = re.split(r"[./]", wrong.lower().replace("-", "_"))[-1]
    meant = COMMON_NAMES.get(wrong, COMMON_NAMES.get(last, ""))
    group = meant.partition(".")[0]
    if "." in wrong and wrong.partition(".")[0] == group and meant == group:
        return ""  # data.dataset, say

    return _by_wrapping(meant, words) or meant


def _by_wrapping(key: str, words: Sequence[str]) -> str:
    """Where an optimizer's setting stands that was looked for in the one around it, or the other way.

    optimizer.lr -> optimizer.base.lr; with optimizer=adamw, which is wrapped by none, back again.
    """
    if _is_wrapped(words):
        other = re.sub(r"^optimizer\.(?!base\.)", "optimizer.base.", key)
        exists = other in _known_keys()
    else:
        other = re.sub(r"^optimizer\.base\.", "optimizer.", key)
        exists = key in _known_keys()
    return other if other != key and exists else ""


def _is_wrapped(words: Sequence[str]) -> bool:
    """Whether the optimizer that was chosen, by a word or by a study, has another as its base."""
    return _chosen("optimizer", words) not in groups()["optimizer/base"]


def _chosen(group: str, words: Sequence[str]) -> str:
    """The option of a group: that of a word, else the study's, else the one of conf/config.yaml."""
    study = HOME / "experiments" / f"{_value('experiments', words)}.yaml"
    found = [_value(group, words)]
    for path in (study, CONF / "config.yaml"):
        entries = content_of(path).get("defaults", []) if path.is_file() else []
        for entry in entries:
            if isinstance(entry, dict):
                found += [entry.get(group, ""), entry.get(f"override /{group}", "")]
    return next(filter(None, found), "")


def _by_likeness(wrong: str, words: Sequence[str]) -> str:
    """The known name that is spelled most alike; of a setting's parent and its own name each for itself."""
    if "/" in wrong:
        return "".join(difflib.get_close_matches(wrong, groups(), n=1, cutoff=0.7))

    known = [_by_wrapping(key, words) or key for key in _known_keys()]
    parent, _, last = wrong.rpartition(".")

    # logger.projct, too: the parent is right and lacks its last part
    below = _by_last_part([key for key in known if key.startswith(f"{parent}.")])
    near = difflib.get_close_matches(last, below, n=1, cutoff=0.7)
    if near:
        return below[near[0]]

    near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.7)
    if near:
        return near[0]

    # trainr.foo.batch_sise: the parent is unknown, the setting's own name is like one
    names = _by_last_part(known)
    near = difflib.get_close_matches(last, names, n=1, cutoff=0.75)
    return names[near[0]] if near else ""


def _by_last_part(keys: Sequence[str]) -> dict[str, str]:
    """Settings by their own names, without their parents; of two of a name the first counts."""
    return {key.rpartition(".")[2]: key for key in reversed(keys)}


@cache
def _known_keys() -> list[str]:
    """Every setting and group of the config, whatever its options."""
    keys = set(groups())
    for path in CONF.rglob("*.yaml"):
        group = path.relative_to(CONF).parent.as_posix()
        if group == "data/base":  # parts of the options beside it
            group = "data"

        prefix = "" if group == "." else group.replace("/", ".") + "."
        keys |= set(_paths(content_of(path), prefix))

    # groups with dots, too
    keys |= {group.replace("/", ".") for group in groups()}
    return sorted(keys)


def _paths(content: dict[str, Any], prefix: str) -> Iterable[str]:
    for key, value in content.items():
        if key in ("defaults", "hydra") or key.startswith("_"):
            continue
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")
