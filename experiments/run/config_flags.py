"""`--config=FILE[:ARGUMENT]` and typed overrides `--config.some.field=value` on frozen dataclasses."""

import ast
import contextlib
import dataclasses
import difflib
import gc
import importlib.util
import inspect
import json
import logging as standard_logging
import reprlib
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from data_pipelines.errors import DataError
from data_pipelines.storage.bucket_errors import is_bucket_error, reason, report_tries_of_gcsfs
from experiments.resilience import distributed
from pixelbert_jax.errors import ConfigError, in_short
from pixelbert_jax.serialization import build, current_name, to_dict

_CONFIG_HELP = (
    "FILE[:ARGUMENT], a Python file with get_config(), such as those in experiments/configs. --config.FIELD=VALUE sets "
    "a field of what it returns, such as --config.train.steps=100 or --config.data.data_dir=data. --config.help lists "
    "all fields with their types, values and meanings."
)


_HELP = "config.help"


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], str | None, dict[str, str]]:
    """Take a command line apart: other arguments, the config file, overrides by dotted name."""
    rest, file, overrides = [], None, {}
    pending = list(arguments)
    while pending:
        argument = pending.pop(0)
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("-") or not (name == "config" or name.startswith("config.")):
            rest.append(argument)
            continue
        if name == _HELP and not equals:
            overrides["help"] = ""
            continue
        if not equals:
            if not pending:
                raise ConfigError(f"{argument}: no value follows; write {argument}=VALUE.")
            value = pending.pop(0)
        if name == "config":
            file = value
        else:
            overrides[name.removeprefix("config.")] = value
    return rest, file, overrides


def load_config(file: str | None, overrides: dict[str, str]) -> Any:
    """The configuration that a file's `get_config()` returns, with overrides.

    Raises:
      ConfigError: no such file, no get_config, an unknown field (the nearest known one is named), a value of another
        type, or values that a dataclass refuses.
    """
    if not file:
        raise ConfigError("No --config=FILE; see experiments/configs for files to start from.")
    path, _, argument = file.partition(":")
    path = str(Path(path).expanduser())
    if not Path(path).is_file():
        near = difflib.get_close_matches(path, [str(p) for p in Path("experiments/configs").glob("*.py")], 1, 0.3)
        hint = f"did you mean {near[0]}?" if near else "give the path of a Python file with get_config()."
        raise ConfigError(f"--config={path}: no such file; {hint}")
    if Path(path).suffix != ".py":
        raise ConfigError(f"--config={path}: not a Python file; give one with get_config().")
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    with _own_code(path):
        spec.loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise ConfigError(f"--config={path}: it has no function get_config(); add one that returns a RunConfig.")
    takes_argument = bool(inspect.signature(module.get_config).parameters)
    if argument and not takes_argument:
        raise ConfigError(f"--config={file}: its get_config() takes no argument; leave out ':{argument}'.")
    with _own_code(path):
        config = module.get_config(argument) if argument else module.get_config()
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"--config={path}: its get_config() returns {type(config).__name__}; return a RunConfig.")
    config = override(config, overrides)
    # A file's own values are held against the types too: dataclasses do not check them.
    return build(to_dict(config), type(config))


@contextlib.contextmanager
def _own_code(path: str) -> Iterator[None]:
    """A block that runs what a user wrote in a config file, whose errors become one sentence with their line."""
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else "?"
        said = f"{type(error).__name__}: {in_short(error, 300).removesuffix('.')}"
        raise ConfigError(f"--config={path}, line {line}: {said}; correct the file.") from error


def override(config: Any, overrides: dict[str, str]) -> Any:
    """A copy of a tree of frozen dataclasses with fields, named by dotted paths, set from strings."""
    tree: dict = {}
    for path, text in overrides.items():
        node, names = tree, path.split(".")
        for name in names[:-1]:
            node = node.setdefault(name, {})
            if not isinstance(node, dict):
                raise ConfigError(f"--config.{path}: a field above it is set too; give one of the two.")
        node[names[-1]] = text
    return _apply(config, tree, "", config)


def _apply(value: Any, tree: dict, prefix: str, root: Any) -> Any:
    """`value` with the overrides of `tree` below it, in one step, so that fields that belong together may change."""
    if isinstance(value, tuple):
        items = list(value)
        for name, below in tree.items():
            if not name.isdecimal() or len(name) > 9 or int(name) >= len(items):
                raise ConfigError(
                    f"Unknown field config.{prefix}{_shown(name)}: {prefix[:-1]} has entries 0 to {len(items) - 1}."
                )
            items[int(name)] = _set(items[int(name)], type(items[int(name)]), below, f"{prefix}{name}", root)
        return tuple(items)
    if not dataclasses.is_dataclass(value):
        raise ConfigError(f"config.{prefix[:-1]} is a single value and has no fields; remove what follows its name.")
    hints = typing.get_type_hints(type(value))
    changes = {}
    for name, below in tree.items():
        name = current_name(name, hints)
        if name not in hints:
            near = difflib.get_close_matches(f"{prefix}{name}", field_names(root), 1, 0.0)
            raise ConfigError(f"Unknown field config.{prefix}{_shown(name)}; did you mean config.{near[0]}?")
        changes[name] = _set(getattr(value, name), hints[name], below, f"{prefix}{name}", root)
    try:
        return dataclasses.replace(value, **changes)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"config.{prefix}: {str(error).removesuffix('.')}.".replace(".:", ":")) from None


def _shown(name: str) -> str:
    """A field's name as it was given, on one line and not without end."""
    return name if name.isprintable() and len(name) <= 100 else reprlib.repr(name)


def _set(old: Any, hint: Any, below: dict | str, name: str, root: Any) -> Any:
    if isinstance(below, dict):
        return _apply(old, below, f"{name}.", root)
    return parse(below, hint, f"config.{name}")


def field_names(value: Any, prefix: str = "") -> list[str]:
    """Dotted names of all fields below a tree of dataclasses."""
    names = []
    for field in dataclasses.fields(value):
        names.append(f"{prefix}{field.name}")
        if dataclasses.is_dataclass(getattr(value, field.name)):
            names += field_names(getattr(value, field.name), f"{prefix}{field.name}.")
    return names


def parse(text: str, hint: Any, name: str) -> Any:
    """A string from a command line as a value of the annotated type."""
    if hint is str:
        return text
    if typing.get_origin(hint) is typing.Literal and all(isinstance(c, str) for c in typing.get_args(hint)):
        return build(text, hint, name)
    entry = (typing.get_args(hint) or (None,))[0]
    if typing.get_origin(hint) is tuple and hasattr(entry, "from_text") and text[:1] not in ("(", "["):
        try:
            return tuple(entry.from_text(part) for part in text.split(",")) if text else ()
        except ValueError as error:
            raise ConfigError(f"{name}={text}: {error}; join several with commas.") from None
    if hint is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            value = text
    return build(value, hint, name)


def run_main(main: Callable[..., None], *, takes_config: bool = True, many_processes: bool = False) -> None:
    """Run `main(config)`, or `main()`, with absl flags; bad input ends it with one sentence and exit code 1.

    Args:
      main: the program.
      takes_config: it is given the configuration that the command line names.
      many_processes: it can be one of several processes (`experiments.resilience.distributed`), and joins them.
    """
    arguments_of_main: list[Any] = []
    if (
        takes_config and "config" not in flags.FLAGS
    ):  # so that --help tells of it; `split_arguments` takes it off the command line
        flags.DEFINE_string("config", None, _CONFIG_HELP)
    _list_shared_flags(main, many_processes=many_processes, takes_config=takes_config)

    def parse_flags(arguments: Sequence[str]) -> list[str]:
        try:
            rest, file, overrides = split_arguments(arguments) if takes_config else (arguments, None, {})
            left = flags.FLAGS(rest)
            if len(left) > 1:
                raise ConfigError(f"Unknown argument {left[1]!r}; flags start with --.")
            if takes_config:
                wants_help = overrides.pop("help", None) is not None
                arguments_of_main.append(load_config(file, overrides))
                if wants_help:
                    from experiments.run.config_help import config_help  # tyro takes a while to import

                    print(config_help(*arguments_of_main))
                    raise SystemExit(0)
        except (ConfigError, DataError, flags.Error) as error:
            raise SystemExit(f"error: {error}") from None
        return left

    def guarded(_: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells every file it touches
            logging.get_absl_logger().addFilter(_is_no_trace_of_orbax)
            report_tries_of_gcsfs()
            sys.unraisablehook = _tell_unraisable
        gc.freeze()  # what was imported stays, and is much: collections while a step is traced need not look at it
        try:
            distributed.start() if many_processes else distributed.refuse_many(Path(sys.argv[0]).stem)
            main(*arguments_of_main)
        except Exception as error:
            if distributed.are_many():
                distributed.fail(error)
            if isinstance(error, ConfigError | DataError):
                raise SystemExit(f"error: {error}") from None
            if is_bucket_error(error):
                raise SystemExit(
                    f"error: a bucket cannot be read or written ({reason(error)}); check its name, and that you are "
                    "signed in. The same command goes on from the last checkpoint."
                ) from None
            raise
        except KeyboardInterrupt:
            raise SystemExit("stopped; the same command goes on from the last checkpoint") from None

    app.run(guarded, flags_parser=parse_flags)


def _list_shared_flags(main: Callable[..., None], *, many_processes: bool, takes_config: bool) -> None:
    """Make --help list the flags that a program has from other modules, beside its own."""
    names = {"config"} if takes_config else set()
    for module in ("__main__", main.__module__):
        names |= {value.name for value in vars(sys.modules[module]).values() if isinstance(value, flags.FlagHolder)}
    if many_processes:
        names |= {value.name for value in vars(distributed).values() if isinstance(value, flags.FlagHolder)}
    for name in sorted(names):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])


def _is_no_trace_of_orbax(record: standard_logging.LogRecord) -> bool:
    """Orbax logs the stack of a failed save in each of its threads, and raises the error besides."""
    return not (record.exc_info and "orbax" in Path(record.pathname).parts)


def _tell_unraisable(error: "sys.UnraisableHookArgs") -> None:
    """Threads that write a checkpoint find their event loop closed after another one of them has failed."""
    if not (isinstance(error.exc_value, RuntimeError) and str(error.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(error)
