"""The command line: `raylign <command> --config recipe.yaml --section.key value`.

Given the words after `raylign`; runs the command and gives the exit code: 0 done, 1 doctor found something bad, or a
run could not go on (a full disk, rewards that fail),
2 the user's input is wrong (one message, no traceback), 130 stopped by Ctrl-C: `train` has then finished its step and
saved a checkpoint, unless Ctrl-C came twice or before the first step. A command's code is imported only when it runs,
so help and config errors come at once.
"""

from __future__ import annotations

import errno
import importlib
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import raylign
from raylign.jobs.config.keys import nearest
from raylign.jobs.config.loading import ConfigError, config_yaml, parse_words, resolve

EXIT_BAD_INPUT = 2
EXIT_NO_WAY_ON = 1
EXIT_INTERRUPTED = 130
FILE_ADVICE = {
    errno.EACCES: "give yourself the right to it, or name another place",
    errno.EPERM: "give yourself the right to it, or name another place",
    errno.EROFS: "the disk is read-only: name a folder on another one",
    errno.ENOSPC: "make room on the disk, or name a folder on another one",
    errno.EDQUOT: "your quota is used up: make room, or name a folder on another disk",
    errno.EFBIG: "files may not be so large here (ulimit -f): raise that, or name a folder on another disk",
    errno.ENOENT: "check the path; a link may point to nothing",
    errno.ENOTDIR: "a part of the path is a file: name another folder",
    errno.EISDIR: "a folder stands where a file is meant",
    errno.ELOOP: "its links go in a circle",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "remove it, or choose another name",
    errno.EIO: "the disk fails: look at its log",
}


@dataclass(frozen=True)
class Command:
    """One command: `module:name` of its config class and of the function that takes it."""

    config_class: str
    function: str
    summary: str
    starts_ray: bool = False
    examine: str | None = None
    """Its checks before a start: takes config and machine, gives findings. None: it checks only its config."""
    files: tuple[tuple[str, str], ...] = ()
    """Options that take a file where a section has the same name: `--cluster FILE`, and the key that is meant."""
    plain_words: str | None = None
    """The key that plain words right after the command fill."""
    example: str | None = None
    """What to write where nothing was given and that is not enough."""


COMMANDS = {
    "quickstart": Command(
        "raylign.jobs.quickstart:QuickstartConfig",
        "raylign.jobs.quickstart:quickstart",
        "a tiny model learns by GRPO, from nothing to a report",
        starts_ray=True,
    ),
    "train": Command(
        "raylign.jobs.config.train:TrainConfig",
        "raylign.jobs.train:train",
        "train a model with any algorithm",
        starts_ray=True,
        examine="raylign.jobs.checks.plan:examine_training",
        example="raylign train --config grpo_arithmetic",
    ),
    "evaluate": Command(
        "raylign.jobs.config.evaluate:EvaluateConfig",
        "raylign.jobs.evaluate:evaluate",
        "accuracy and pass@k of a model or checkpoint",
        examine="raylign.jobs.checks.plan:examine_evaluation",
        example="raylign evaluate --config evaluate_arithmetic --model runs/tiny-model",
    ),
    "sample": Command(
        "raylign.jobs.sample.config:SampleConfig",
        "raylign.jobs.sample.sample:sample",
        "answers of a model or checkpoint to any prompts, without a reward",
        starts_ray=True,
        examine="raylign.jobs.sample.sample:examine_sample",
    ),
    "chat": Command(
        "raylign.jobs.chat.config:ChatConfig",
        "raylign.jobs.chat.chat:chat",
        "talk to a model or checkpoint in the terminal",
    ),
    "export": Command(
        "raylign.jobs.export.config:ExportConfig",
        "raylign.jobs.export.export:export",
        "a model folder to give away: weights, tokenizer, a card with data, settings, numbers and curves",
    ),
    "from": Command(
        "raylign.jobs.originals.from_command:FromConfig",
        "raylign.jobs.originals.from_command:print_ours",
        "our command for one of the programs that the algorithms were published with",
    ),
    "data best-of-n": Command(
        "raylign.jobs.data.best_of_n_config:BestOfNConfig",
        "raylign.jobs.data.best_of_n:best_of_n",
        "preference pairs: best and worst of n answers, scored by rewards",
        examine="raylign.jobs.data.best_of_n:examine_best_of_n",
        example="raylign data best-of-n --config best_of_n_arithmetic",
    ),
    "data score-pairs": Command(
        "raylign.jobs.data.score_pairs_config:ScorePairsConfig",
        "raylign.jobs.data.score_pairs:score_pairs",
        "soft labels: both answers of preference pairs scored by rewards",
        examine="raylign.jobs.data.score_pairs:examine_score_pairs",
    ),
    "data grpo": Command(
        "raylign.jobs.data.grpo_config:GrpoDataConfig",
        "raylign.jobs.data.grpo:grpo_data",
        "training rows by how a model's answers score against references (BLEUBERI)",
        examine="raylign.jobs.data.grpo:examine",
    ),
    "data sft": Command(
        "raylign.jobs.data.sft:SftDataConfig",
        "raylign.jobs.data.sft:sft_data",
        "demonstrations from the references of such rows",
    ),
    "data synthesize": Command(
        "raylign.jobs.synthetic.config:SynthesizeConfig",
        "raylign.jobs.synthetic.synthesize:synthesize",
        "training rows from a task's definition, written and verified by a teacher",
    ),
    "synthetic-rl": Command(
        "raylign.jobs.synthetic.rl_config:SyntheticRLConfig",
        "raylign.jobs.synthetic.synthetic_rl:synthetic_rl",
        "from a task's definition to a tuned model: data, GRPO, evaluation",
    ),
    "compare": Command(
        "raylign.jobs.compare.config:CompareConfig",
        "raylign.jobs.compare.compare:compare",
        "win rate of a model or file of answers against another, by rewards or a judge",
        examine="raylign.jobs.compare.compare:examine_compare",
    ),
    "sweep": Command(
        "raylign.jobs.config.sweep:SweepConfig",
        "raylign.jobs.sweep.run:sweep",
        "a grid of training runs from one file, and a table of what they found: prep, then execute",
        example="raylign sweep --config sweep_sail",
    ),
    "sweep prep": Command(
        "raylign.jobs.config.sweep:SweepConfig",
        "raylign.jobs.sweep.run:sweep_prep",
        "check every command of a sweep and write sweep.json; starts nothing",
        example="raylign sweep prep --config sweep_sail",
    ),
    "sweep execute": Command(
        "raylign.jobs.config.sweep:PreparedSweepConfig",
        "raylign.jobs.sweep.run:sweep_execute",
        "run what sweep.json lists and is not done yet, as much at once as there is room for",
    ),
    "sweep status": Command(
        "raylign.jobs.config.sweep:PreparedSweepConfig",
        "raylign.jobs.sweep.run:sweep_status",
        "what of a sweep is done, under way, left out or failed",
    ),
    "plan": Command(
        "raylign.jobs.simulation.config:PlanConfig",
        "raylign.jobs.checks.plan:plan",
        "check a training run without starting it, or predict its times (--simulate)",
        files=(("--cluster", "--cluster_file"),),
        example="raylign plan --config grpo_arithmetic",
    ),
    "submit": Command(
        "raylign.jobs.submit.config:SubmitConfig",
        "raylign.jobs.submit.submit:submit",
        "a training run as a job of a Ray cluster: submit RECIPE [--follow]; again: it goes on",
        plain_words="config",
        example="raylign submit grpo_arithmetic --folder /mnt/shared/runs/mine --follow",
    ),
    "submit status": Command(
        "raylign.jobs.submit.config:JobStatusConfig",
        "raylign.jobs.submit.submit:status",
        "jobs that were submitted, and how they are: submit status [JOB]",
        plain_words="job",
    ),
    "submit logs": Command(
        "raylign.jobs.submit.config:JobLogsConfig",
        "raylign.jobs.submit.submit:logs",
        "what a job said: submit logs [JOB] [--follow]",
        plain_words="job",
    ),
    "submit stop": Command(
        "raylign.jobs.submit.config:JobStopConfig",
        "raylign.jobs.submit.submit:stop",
        "end a job; it finishes its step and saves first: submit stop [JOB]",
        plain_words="job",
    ),
    "init-model": Command(
        "raylign.jobs.init_model:InitModelConfig",
        "raylign.jobs.init_model:init_model",
        "make a tiny model and tokenizer for CPU runs",
    ),
    "report": Command(
        "raylign.jobs.cli:ReportConfig", "raylign.jobs.cli:report", "write report.html of a run folder again"
    ),
    "view": Command(
        "raylign.jobs.view.view:ViewConfig",
        "raylign.jobs.view.view:view",
        "a page in the browser over runs, comparisons, sweeps and data: view [FOLDER …]",
        plain_words="folders",
    ),
    "scale": Command(
        "raylign.jobs.scale:ScaleConfig",
        "raylign.jobs.scale:scale",
        "engines join or leave a run while it goes on: scale RUN --engines N",
        plain_words="run",
    ),
    "doctor": Command(
        "raylign.jobs.checks.doctor:DoctorConfig",
        "raylign.jobs.checks.doctor:doctor",
        "what is wrong with this machine",
    ),
}


class ReportConfig(BaseModel, extra="forbid", use_attribute_docstrings=True):
    """Which run to report on."""

    folder: Path
    """Run folder."""


def report(config: ReportConfig) -> None:
    """Write the report of a finished or running run."""
    from raylign.jobs.report.report import write_report

    print(write_report(config.folder))


def run_command_line(words: list[str]) -> int:
    """Run what the words say; gives the exit code."""
    try:
        return _dispatch(words)
    except ConfigError as error:
        _print_errors(str(error))
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ValueError as error:
        if not _raised_by_raylign(error):
            raise
        _print_errors(str(error))
    except OSError as error:
        if not _is_about_a_file(error):
            raise
        _print_errors(_file_words(error))
    except Exception as error:
        if not getattr(error, "says_it_all", False):
            raise
        _print_errors("\n".join([str(error), *getattr(error, "__notes__", [])]))
        return EXIT_NO_WAY_ON
    return EXIT_BAD_INPUT


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        print(f"raylign {raylign.__version__}")
        return 0
    name, words = command_name(words)
    members = [command for command in COMMANDS if command.startswith(f"{name} ")]
    if members and name not in COMMANDS:
        print(_overview(members))  # `data` alone
        return 0
    if name not in COMMANDS:
        from raylign.jobs.originals.hints import original_command_lines

        if lines := original_command_lines([name, *words]):
            raise ConfigError("\n".join(lines))
        group = [command for command in COMMANDS if command.startswith(f"{name.split()[0]} ")]
        members_by_word = {command.split()[-1]: command for command in group}
        hint = (
            members_by_word.get(nearest(name.split()[-1], members_by_word) or "") if group else nearest(name, COMMANDS)
        )
        raise ConfigError(
            f"{name}: unknown command"
            + (f"; did you mean {hint}?" if hint else ".")
            + f" Commands: {', '.join(group or COMMANDS)}"
        )
    if name == "from" and words and words[0] not in ("-h", "--help", "--command"):
        words = ["--command", words[0] if len(words) == 1 else shlex.join(words)]  # the words are not options of ours
    config_class = _import(COMMANDS[name].config_class)
    parsed = parse_words(config_class, words, f"raylign {name}")
    try:
        config = resolve(config_class, parsed.layers)
    except ConfigError as error:
        example = COMMANDS[name].example
        if words or example is None:
            raise
        raise ConfigError(f"{error}\nstart from a recipe, a file or one that comes with raylign:\n{example}") from None
    if parsed.print_config:
        print(config_yaml(config), end="")
        return 0
    result = _run(COMMANDS[name], config)
    return result if isinstance(result, int) else 0


def _run(command: Command, config: BaseModel) -> Any:
    if not command.starts_ray:
        return _import(command.function)(config)
    from raylign.actors.cluster import ClusterConfig, warm_up_for
    from raylign.actors.warm.process import cool_down

    was_begun = warm_up_for(getattr(config, "cluster", None) or ClusterConfig())
    try:
        return _import(command.function)(config)
    finally:
        if was_begun:
            cool_down()  # where a check said no, no cluster has ended it


def command_name(words: list[str]) -> tuple[str, list[str]]:
    """The command, of one word or two (`data best-of-n`), and the words after it."""
    is_group = any(command.startswith(f"{words[0]} ") for command in COMMANDS)
    length = 2 if is_group and len(words) > 1 and not words[1].startswith("-") else 1
    if length == 2 and words[0] in COMMANDS and COMMANDS[words[0]].plain_words and not _is_verb(*words[:2]):
        length = 1  # `submit RECIPE`: a word of the command itself
    name, rest = " ".join(words[:length]), words[length:]
    key = COMMANDS[name].plain_words if name in COMMANDS else None
    for option, meant in COMMANDS[name].files if name in COMMANDS else ():
        followers = [*rest[1:], ""]
        rest = [_for_a_file(word, option, meant, followers[number]) for number, word in enumerate(rest)]
    if key is not None and rest and not rest[0].startswith("-"):
        rest = [f"--{key}", *rest]
    return name, rest


def _for_a_file(word: str, option: str, meant: str, following: str) -> str:
    """`--cluster cluster.yaml` names a file; `--cluster '{"gpus": "never"}'` the section, as for other commands."""
    given, equals, value = word.partition("=")
    is_file = given == option and not (value if equals else following).startswith("{")
    return f"{meant}{equals}{value}" if is_file else word


def _is_verb(group: str, word: str) -> bool:
    """A second word of the group's commands, or one that is meant for it."""
    verbs = [command.split()[-1] for command in COMMANDS if command.startswith(f"{group} ")]
    return word in verbs or (nearest(word, verbs) is not None and not Path(word).is_file())


def _overview(commands: Sequence[str] = tuple(COMMANDS)) -> str:
    width = max(map(len, commands)) + 2
    lines = ["usage: raylign COMMAND [--config RECIPE.yaml ...] [--section.key VALUE ...]", "", "commands:"]
    lines += [f"  {name:<{width}}{COMMANDS[name].summary}" for name in commands]
    lines += [
        "",
        "raylign COMMAND --help lists every key with its default; --print-config prints the resolved config;",
        "raylign --version prints the version.",
    ]
    return "\n".join(lines)


def _import(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _raised_by_raylign(error: BaseException) -> bool:
    """Our ValueErrors speak to users; one out of a library is a defect and keeps its traceback."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and str(frames[-1][0].f_globals.get("__name__", "")).startswith("raylign.")


def _is_about_a_file(error: OSError) -> bool:
    """What the file system refused, wherever it was asked; connections and other programs' errors are defects."""
    return error.errno in FILE_ADVICE and (error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT))


def _file_words(error: OSError) -> str:
    """What, where, and what to do, in one line."""
    assert error.errno is not None
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
    return f"{where}{error.strerror or error}; {FILE_ADVICE[error.errno]}"


def _print_errors(message: str) -> None:
    for line in message.split("\n"):
        # a command line of ours stands alone, to be copied
        print(line if line.startswith("raylign ") else f"error: {line}", file=sys.stderr)
