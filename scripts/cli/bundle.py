"""The command line of the bundles (`python -m monai.bundle run --option value`), as their configs check it first."""

from __future__ import annotations

import inspect
import json
import logging
import os
import pydoc
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow, create_workflow, run
from monai.bundle.utils import DEFAULT_EXP_MGMT_SETTINGS

from scripts.cli.options import nearest
from scripts.cli.values import read_schema, settle_values
from scripts.common.identity import code_fingerprint
from scripts.common.problems import Problems, UserError

logger = logging.getLogger(__name__)

CODE = "code"  # of a package's metadata: the folder of its modules, and their fingerprint
RESERVED = ("_disabled_", "_mode_", "_requires_", "_desc_")  # MONAI's own keys of any component


def start() -> None:
    """What every config of a bundle calls first: check what was typed, and tell mistakes in words.

    From here on the process ends with the words of a `UserError` alone, however deep in a traceback it lies: MONAI
    wraps what a component raises, and buries what the user should read. Options must name something, and values keep
    the bundle's rules (`settle_values`).

    MONAI's `create_workflow`, which its command line calls too, is the one place that knows what was typed: it is
    looked for among the callers. A workflow that is made in another way has its values checked, and no names.

    Raises:
        UserError: every option that names nothing, and every value that is not what it should be.
    """
    sys.excepthook = _hook
    problems = Problems("options")
    for frame in callers():
        if frame.f_code is create_workflow.__code__:
            given = frame.f_locals.get("_args", {})  # with what stands in an args file, without the config files
            check_ids(frame.f_locals["config_file"], given, problems, tracking=given.get("tracking"))
    parser = calling_parser()
    bundle_root = parser.get_parsed_content("bundle_root")
    settle_values(parser, read_schema(bundle_root), problems)
    problems.raise_if_any()
    tell_edited(bundle_root)


def read_metadata(bundle_root: str | os.PathLike[str]) -> dict[str, Any]:
    """What a bundle's `configs/metadata.json` holds; nothing where there is none."""
    path = Path(bundle_root) / "configs" / "metadata.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def tell_edited(bundle_root: str | os.PathLike[str]) -> None:
    """Warn where the code of a bundle that was packaged is not what was packaged; edited, it may mean other results."""
    told = read_metadata(bundle_root).get(CODE)
    if told and (own := code_fingerprint(Path(bundle_root) / told["folder"])) != told["fingerprint"]:
        logger.warning(
            "%s was edited after it was packaged: its fingerprint is %s, packaged was %s",
            told["folder"], own, told["fingerprint"],
        )  # fmt: skip


def callers() -> Iterator[FrameType]:
    """The frames of all that called the caller of this."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def calling_parser() -> ConfigParser | None:
    """The parser of the config that is being run; MONAI hands it to no component, so it is looked for among callers."""
    found = (frame.f_locals.get("self") for frame in callers())
    return next((caller for caller in found if isinstance(caller, ConfigParser)), None)


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        sys.__excepthook__(kind, error, trace)
    else:
        # A process that loads data hands its traceback over as words of the error.
        words = str(cause).rpartition(f"{UserError.__module__}.{UserError.__name__}: ")[2]
        print(f"error: {words.strip()}", file=sys.stderr)


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
            like = nearest(keys[depth], [*siblings, *own] if depth == 0 else siblings)
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
