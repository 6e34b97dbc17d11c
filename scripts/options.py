"""Options of a command line, looked at before any work: each names something, and holds a value of its kind."""

from __future__ import annotations

import difflib
import inspect
import itertools
import pydoc
import re
import types
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Union, get_args, get_origin

from fire.parser import DefaultParseValue

from scripts.problems import Problems

# As Fire tells an option from a value; single letters stand for the one parameter that begins so.
OPTION = re.compile(r"--?([a-zA-Z][\w#:-]+)(=.*)?", re.DOTALL)
RESERVED = ("_disabled_", "_mode_", "_requires_", "_desc_")  # MONAI's own keys of any component
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def typed_options(words: Iterable[str]) -> list[str]:
    """The names of the options among the words of a command line, as Fire reads them; behind `--` are Fire's own."""
    before = itertools.takewhile(lambda word: word != "--", words)
    return [found[1].replace("-", "_") for word in before if (found := OPTION.fullmatch(word))]


def _nearest(name: str, known: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)


# ---- of the package's own commands -----------------------------------------------------------------------------------


def check_names(function: Callable[..., Any], names: Iterable[str], problems: Problems) -> None:
    """Note the options that are no parameter of a command; Fire would find them only after the command has run."""
    known = list(inspect.signature(function).parameters)
    switched_off = {f"no{name}" for name in known}
    for name in names:
        if name not in {*known, *switched_off, "help"}:
            like = _nearest(name, known)
            todo = f"did you mean --{like}?" if like else f"its options are {', '.join(known)}"
            problems.add(f"--{name}", "is no option of this command", todo)


def read_value(text: str, kind: Any) -> Any:
    """A value as typed, in the kind that a type hint asks for.

    Raises:
        ValueError: it is not of that kind; the message says what to give.
    """
    if get_origin(kind) in (types.UnionType, Union):
        kinds = get_args(kind)
        if text == "None" and type(None) in kinds:
            return None
        kind = str if str in kinds else kinds[0]
    if get_origin(kind) is not None:
        return _read_values(text, get_args(kind))
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"give {KINDS[kind]}") from None


def _read_values(text: str, kinds: Sequence[Any]) -> tuple[Any, ...]:
    """Values with commas between them, in brackets or not: any number of one kind, or one of each of `kinds`."""
    values = DefaultParseValue(text)
    values = values if isinstance(values, (tuple, list)) else (values,)
    count = None if len(kinds) == 1 or kinds[-1] is Ellipsis else len(kinds)
    try:
        if count not in (None, len(values)):
            raise ValueError
        return tuple(read_value(str(value), kinds[0]) for value in values)
    except ValueError:
        number = "values" if count is None else f"{count} values"
        raise ValueError(f"give {number} with commas between them, each {KINDS[kinds[0]]}") from None


# ---- of bundles ------------------------------------------------------------------------------------------------------


def check_bundle_options() -> None:
    """Refuse options that name nothing in the configs of the workflow that is being started.

    MONAI takes any option for an id of its own, so that `--epohcs 10` would change nothing and say nothing. Its
    `create_workflow`, which its command line calls too, is the one place that knows what came from files and what was
    typed; it is looked for among the callers. A workflow that is made in another way is not checked.

    Raises:
        UserError: every option that names nothing.
    """
    from monai.bundle import create_workflow  # not at the top: the package's own commands start faster without MONAI

    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not create_workflow.__code__:
        frame = frame.f_back
    if frame is not None:
        given = frame.f_locals.get("_args", {})  # with what stands in an args file, without the config files
        problems = Problems("options")
        check_ids(frame.f_locals["config_file"], given, problems, tracking=given.get("tracking"))
        problems.raise_if_any()


def check_ids(
    config_file: str | Sequence[str],
    names: Iterable[str],
    problems: Problems,
    tracking: str | dict[str, Any] | None = None,
) -> None:
    """Note the options that name neither an id of the configs nor an argument of MONAI's own.

    Args:
        config_file: one config, or several of which later ones replace ids of earlier ones.
        names: ids; `a#b` is b inside of a, and may be an argument of a component that its config leaves out.
        tracking: what MONAI's `--tracking` is: a name, a file or a dict, whose settings are options too.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow, run
    from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

    parser = ConfigParser()
    parser.read_config(config_file)
    own = {name for command in (run, create_workflow, ConfigWorkflow) for name in inspect.signature(command).parameters}
    own.add("_meta_")  # what MONAI reads beside the configs
    if tracking is not None:
        settings = DEFAULT_EXP_MGMT_SETTINGS.get(str(tracking)) or ConfigParser.load_config_files(tracking)
        own |= set(settings["configs"])
    for name in names:
        keys = parser.ref_resolver.split_id(name.lstrip("+"))
        if keys[0] not in own and (wrong := _first_unknown(parser.get(), keys)) is not None:
            depth, siblings = wrong
            like = _nearest(keys[depth], [*siblings, *own] if depth == 0 else siblings)
            meant = "#".join([*keys[:depth], like, *keys[depth + 1 :]]) if like else ""
            todo = f"did you mean --{meant}?" if like else "see the values at the top of the config"
            problems.add(f"--{name}", "names nothing in the configs", todo)


def _first_unknown(config: Any, keys: Sequence[str]) -> tuple[int, list[str]] | None:
    """Where a path of keys leaves a config, and which keys there could be instead; None where it does not."""
    for depth, key in enumerate(keys):
        if isinstance(config, list):
            config = {str(index): value for index, value in enumerate(config)}
        elif not isinstance(config, dict):
            config = {}
        if key not in config:
            takes_any, arguments = _arguments(config.get("_target_"))
            if depth == len(keys) - 1 and (takes_any or key in arguments):
                return None  # an argument that the config leaves at its default
            return depth, [*config, *arguments]
        config = config[key]
    return None


def _arguments(target: str | None) -> tuple[bool, list[str]]:
    """Whether a component takes arguments of any name, or cannot be looked at; and those that it names."""
    if target is None:
        return False, []
    try:
        parameters = inspect.signature(pydoc.locate(target)).parameters.values()
    except (TypeError, ValueError):  # MONAI finds more than Python's own search, and builtins show no signature
        return True, []
    return any(one.kind is one.VAR_KEYWORD for one in parameters), [*RESERVED, *(one.name for one in parameters)]
