"""What all commands share: flags, the text of ``--help``, errors of one line, and exit codes.

Exit codes: 0 done, 1 error, 2 wrong usage, 3 policy violated, 75 stopped on request and saved.
"""

import ast
import importlib.util
import json
import os
import pathlib
import re
import signal
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from equipoise.engine.config import Run
from equipoise.engine.errors import UserError, did_you_mean
from equipoise.engine.validation import validate

if TYPE_CHECKING:
    import rich.progress

    from equipoise.engine.metrics.decisions.policy import Verdict

_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of prepared cohorts. Default: the environment variable EQUIPOISE_DATA, or else a folder in the user's cache.",
)
_DEBUG = flags.DEFINE_bool("debug", False, "Show the whole traceback of an error, not one line.")
_MODEL_ARGUMENT = re.compile(r"^--?config\.model\.args\.")


def data_dir() -> pathlib.Path:
    """The folder of prepared cohorts: ``--data_dir``, else ``EQUIPOISE_DATA``, else a folder in the user's cache."""
    given = _DATA_DIR.value or os.environ.get("EQUIPOISE_DATA")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return pathlib.Path(given).expanduser() if given else cache / "equipoise" / "cohorts"


def setting(text: str, flag: str) -> tuple[str, Any]:
    """Reads ``"subjects=400"`` as ``("subjects", 400)``. A value that is no JSON stays text.

    Raises:
      UserError: for text of another form. The message names the flag.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"{flag}: {text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _help(module: types.ModuleType) -> str:
    """The text of ``--help``: the docstring of the command, its flags and the flags that all commands have."""
    values = flags.FLAGS
    of_command = values.get_key_flags_for_module(module)
    shared = values.flags_by_module_dict()[__name__] + ([values["config"]] if "config" in values else [])
    lines = [(module.__doc__ or "").strip(), "", "flags:"]
    for flag in sorted({f.name: f for f in [*of_command, *shared]}.values(), key=lambda f: f.name):
        default = (
            ""
            if flag.default is None or flag.name.startswith("config")
            else f" (default: {flag.default_as_str})"
        )
        lines.append(f"  --{flag.name}: {' '.join((flag.help or '').split())}{default}")
    return "\n".join(lines)


def locate_config(value: str) -> str:
    """Turns ``study:name`` (or ``pkg.module:name``, or a path) into the ``/path/to/file.py:name`` that is loaded.

    Raises:
      UserError: when there is no such study, module or file.
    """
    where, _, name = value.partition(":")
    suffix = f":{name}" if name else ""
    if where.endswith(".py"):
        path = pathlib.Path(where).expanduser().absolute()
        if not path.exists():
            raise UserError(f"--config: no file {path}")
        return f"{path}{suffix}"
    module = where if "." in where else f"equipoise.tasks.{where}.runs"
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin:
        from equipoise import tasks

        studies = tasks.studies("runs")
        raise UserError(
            f"--config={value}: no study or module {where!r}.{did_you_mean(where, studies)} "
            f"Studies: {', '.join(studies)}; or give pkg.module:name or path/to/runs.py:name"
        )
    return f"{spec.origin}{suffix}"


def study_of(run_file: pathlib.Path) -> str:
    """The study that a run file belongs to, as ``Run.study`` holds it.

    Args:
      run_file: the file that ``--config`` names.

    Returns:
      ``simba`` for a file in the folder ``tasks/simba``; ``my_pkg.analysis`` for a file in a package that has such a module;
      otherwise "".
    """
    from equipoise import tasks

    folder = run_file.resolve().parent
    if folder.parent in [pathlib.Path(root).resolve() for root in tasks.__path__]:
        return folder.name
    names = ["analysis"] if (folder / "analysis.py").exists() else []
    while names and (folder / "__init__.py").exists():
        names.insert(0, folder.name)
        folder = folder.parent
    return ".".join(names) if len(names) > 1 else ""


def load_run(value: str) -> Run:
    """The run that ``--config=VALUE`` names, before the command line changes it.

    Raises:
      UserError: for a run that does not exist.
    """
    path, _, name = locate_config(value).partition(".py")
    spec = importlib.util.spec_from_file_location("run_file", f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.get_config(*filter(None, [name.removeprefix(":")]))
    except ValueError as error:
        raise UserError(f"--config={value}: {error}") from error


def define_config() -> flags.FlagHolder[Run]:
    """Defines ``--config`` with its overrides, and ``--print_config``."""
    from ml_collections import config_flags

    flags.DEFINE_bool(
        "print_config", False, "Print the configuration as the command line changes it, and stop."
    )
    flags.DEFINE_multi_string(
        "model_args",
        [],
        "An argument of the network, name=value, with the value as a Python literal. --config.model.args.name=value means the same.",
    )
    return config_flags.DEFINE_config_file(
        "config",
        None,
        "The run: study:name (such as simba:near), pkg.module:name, or path/to/runs.py:name. "
        "Change single fields with flags such as --config.optimizer.learning_rate=1e-4.",
        lock_config=False,
    )


def read_config(holder: flags.FlagHolder[Run]) -> Run:
    """The validated configuration, with the study that its run file belongs to.

    Raises:
      UserError: when none is given or it is invalid.
    """
    config = holder.value
    if config is None:
        raise UserError("no --config: name a run, e.g. --config=simba:near")
    if not isinstance(config, Run):
        raise UserError(
            f"--config: get_config returned {type(config).__name__}, not an equipoise.engine.config.Run"
        )
    for given in flags.FLAGS.model_args:
        name, equals, value = given.partition("=")
        if not equals:
            raise UserError(f"--config.model.args.{name} needs a value: --config.model.args.{name}=VALUE")
        try:
            config.model.args[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            config.model.args[name] = value
    run_file = flags.FLAGS["config"].config_filename.partition(".py:")[0].removesuffix(".py")
    config.study = config.study or study_of(pathlib.Path(f"{run_file}.py"))
    validate(config)
    return config


def define_hosts() -> None:
    """Defines the flags that let several processes compute together."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "This process is one of several that share the work, started by Slurm, Open MPI, a TPU pod or Kubernetes.",
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, for processes that no cluster has started."
    )
    flags.DEFINE_integer("num_processes", None, "With --coordinator: the number of processes.", lower_bound=1)
    flags.DEFINE_integer(
        "process_id", None, "With --coordinator: the number of this process, from 0.", lower_bound=0
    )


def join_hosts() -> None:
    """Joins the other processes of the job, if the flags say that there are others."""
    from equipoise.engine import hosts

    values = flags.FLAGS
    if values.distributed or values.coordinator:
        hosts.join(values.coordinator, values.num_processes, values.process_id)


def make_bars(disable: bool = False) -> "rich.progress.Progress":
    """Progress bars that vanish when they are done."""
    import rich.progress

    return rich.progress.Progress(transient=True, disable=disable)


def print_above(bars: "rich.progress.Progress", text: str) -> None:
    """Prints lines as they are, above the bars where these are shown."""
    bars.console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _prepare_arguments(argv: Sequence[str]) -> list[str]:
    """Rewrites ``--config study:name`` to the file that it names, and arguments of the network to a flag of their own.

    The arguments depend on the network, so that the fields of a run cannot list them; the flags library refuses what is not listed.
    """
    done, rest = [], list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("--config", "-config") and rest:
            word = f"--config={rest.pop(0)}"
        if word.startswith(("--config=", "-config=")):
            word = f"--config={locate_config(word.split('=', 1)[1])}"
        done.append(_MODEL_ARGUMENT.sub("--model_args=", word))
    return done


def _config_fields() -> list[str]:
    """Dotted names of all fields of a run."""
    from equipoise.engine.config import flatten, to_dict

    return [name for name, _ in flatten(to_dict(Run()))]


def _explain(error: Exception) -> str:
    """An error of a flag or of the configuration in one line, with the most similar known name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = (
        lines[-1] if lines else type(error).__name__
    )  # a run file's own error comes last, after its traceback
    for word in sys.argv[1:]:
        name = word.lstrip("-").split("=", 1)[0]
        if not name.startswith("config."):
            continue
        field = name.removeprefix("config.")
        known = _config_fields()
        if field not in known:
            return f"no config field {field!r}.{did_you_mean(field, known)} --print_config lists them all."
    return text.removeprefix("ValueError: ")


def gate(verdicts: "Sequence[Verdict] | None") -> int:
    """The exit code of a policy's verdicts: 3 where a bound is violated. Prints a line for each bound that is."""
    broken = [verdict for verdict in verdicts or () if not verdict.is_met]
    for verdict in broken:
        print(verdict, file=sys.stderr)
    return 3 if broken else 0


def _catch(main: Callable[[], int | None]) -> int:
    """Runs the main function of a command; an error becomes one line and an exit code."""
    try:
        return main() or 0
    except UserError as error:
        if _DEBUG.value:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 1
    except Exception as error:
        from equipoise.engine.training.loop import Preempted

        if isinstance(error, Preempted):
            print(error, file=sys.stderr)
            return 75
        if _DEBUG.value:
            raise
        print(
            f"error: {type(error).__name__}: {error} (run again with --debug for the traceback)",
            file=sys.stderr,
        )
        return 1


def run(main: Callable[[], int | None], argv: Sequence[str] | None = None) -> None:
    """Parses flags, runs ``main()`` and exits.

    Args:
      main: the main function of a command; the docstring of its module is the text of ``--help``.
      argv: the command line; by default ``sys.argv``.
    """
    argv = list(sys.argv if argv is None else argv)
    module = sys.modules[main.__module__]
    if any(word in ("--help", "-h", "-help", "--helpfull", "help") for word in argv[1:]):
        print(_help(module))
        sys.exit(0)
    try:
        sys.argv = _prepare_arguments(argv)  # where config_flags looks for overrides
        rest = flags.FLAGS(sys.argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # a run file may raise anything
        if "--debug" in argv:
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        sys.exit(2)
    if rest[1:]:
        print(
            f"error: unexpected argument {rest[1]!r}; flags are written --name=value (see --help)",
            file=sys.stderr,
        )
        sys.exit(2)
    logging.use_absl_handler()
    if (
        not _DEBUG.value
    ):  # Orbax's threads log tracebacks of errors that are also raised, and then shown in one line
        logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    sys.exit(_catch(main))
