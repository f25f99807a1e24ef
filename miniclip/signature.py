"""What a function or class takes: names and types, and whether a config's value may stand for one."""

import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union


def signature_of(target: Any) -> tuple[list[str], dict[str, Any]]:
    """Names and types of what a function or class takes; `**settings` are those of the base class.

    What torch's class of all optimizers takes, an optimizer gives it itself.
    """
    functions = (
        [
            vars(base)["__init__"]
            for base in target.__mro__
            if "__init__" in vars(base) and base is not object and not _is_optimizer_of_torch(base)
        ]
        if inspect.isclass(target)
        else [target]
    )
    names: dict[str, None] = {}
    hints: dict[str, Any] = {}
    for function in functions:
        parameters = inspect.signature(function).parameters.values()
        names |= dict.fromkeys(
            p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"
        )
        # `x: int = None` of other packages takes None, too
        takes_none = {p.name for p in parameters if p.default is None}
        found = typing.get_type_hints(function)
        for name in takes_none & found.keys():
            found[name] = _union(found[name], None)
        hints = found | hints
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return list(names), hints


def named_freely(target: Any) -> type | None:
    """The class of the parts that a class or function takes under any name: `**views: View`."""
    for parameter in inspect.signature(target).parameters.values():
        kind = parameter.annotation
        if parameter.kind is parameter.VAR_KEYWORD and inspect.isclass(kind) and kind is not Any:
            return kind
    return None


def _is_optimizer_of_torch(base: type) -> bool:
    """Whether a class is the base class of all optimizers, told by its name: torch need not be imported."""
    return (base.__module__, base.__qualname__) == ("torch.optim.optimizer", "Optimizer")


def _union(*kinds: Any) -> Any:
    """What `|` gives, also of what is no type, as in `callback: callable = None`."""
    return Union[kinds]  # noqa: UP007


def of_config(hint: Any) -> Any:
    """A type of another package as a config's values can have it: without tensors.

    Any where these cannot be told by it.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        kinds = [of_config(kind) for kind in arguments if getattr(kind, "__name__", "") != "Tensor"]
        return Any if Any in kinds else _union(*kinds)
    if origin is tuple and Ellipsis not in arguments:
        return types.GenericAlias(tuple, tuple(map(of_config, arguments)))
    is_known = origin is Literal or hint in (bool, int, float, str, type(None))
    return hint if is_known else Any


def fits(value: Any, hint: Any) -> bool:
    """Whether a config value may stand for a type; types a config cannot hold fit everything."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return value in arguments
    is_list = isinstance(value, Sequence) and not isinstance(value, str)
    if origin is Sequence or hint is Sequence:
        return is_list and all(fits(item, *arguments) for item in value)
    if origin is tuple:
        return is_list and len(value) == len(arguments) and all(map(fits, value, arguments))
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (bool, str):
        return isinstance(value, hint)
    # a node of its own, checked by itself
    return hint is Any or isinstance(value, Mapping)


def described(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(described(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is Sequence:
        return f"a list, each {described(arguments[0])}"
    if origin is tuple:
        each = dict.fromkeys(map(described, arguments))
        items = f"{len(arguments)}, each {''.join(each)}" if len(each) == 1 else ", ".join(each)
        return f"a list of {items}"
    names = {float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    return "null" if hint is type(None) else names.get(hint, "a part with a _target_")
