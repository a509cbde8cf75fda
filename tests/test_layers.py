"""The map of design and imports holds: arrows between folders, who may import what is heavy, and what starts light.

Given the source files as syntax trees, and fresh interpreters; fails with file and line of whatever breaks the map.
"""

from __future__ import annotations

import ast
import graphlib
import importlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import finished

ROOT = Path(__file__).parents[1]
FOLDERS = ["rewards", "rollout", "learners", "actors", "jobs"]
MAY_IMPORT = {
    "rewards": set[str](),
    "rollout": set[str](),
    "learners": {"rollout", "rewards"},
    "actors": {"rewards", "rollout", "learners"},
    "jobs": {"rewards", "rollout", "learners", "actors"},
}
# Of rollout, the learners know what a sample is, how it was sampled and how old it may be, not how it was made.
LEARNERS_MAY_IMPORT_OF_ROLLOUT = {"raylign.rollout.sample", "raylign.rollout.sampling", "raylign.rollout.staleness"}
# Of rewards, how scores of one group become comparable: an advantage and a mixture of rewards are the same arithmetic.
LEARNERS_MAY_IMPORT_OF_REWARDS = {"raylign.rewards.z_scores"}
HEAVY_ONLY_IN = {
    "ray": ("actors/", "jobs/"),
    "vllm": ("rollout/engine/vllm_engine.py", "rollout/weights/transfer.py"),
    "deepspeed": ("learners/engines/deepspeed_engine.py",),
}
NOT_FOR_HELP = {"torch", "vllm", "deepspeed", "ray", "transformers", "datasets"}


def modules() -> list[Path]:
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import in a file: at the top, inside functions, and by string."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            # `from raylign.rollout import sample` imports the module raylign.rollout.sample
            yield from ((node.lineno, f"{module}.{name.name}") for name in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def all_imports() -> Iterator[tuple[str, str, str]]:
    """Place ("jobs/train.py:12"), file ("jobs/train.py") and dotted name of every import of ours."""
    for path in modules():
        file = path.relative_to(ROOT).as_posix()
        for line, name in imported_names(path):
            yield f"{file}:{line}", file, name


def test_folders_import_only_those_below_them() -> None:
    broken = []
    for place, file, name in all_imports():
        folder, parts = file.split("/")[0], name.split(".")
        ours = parts[1] if parts[0] == "raylign" and len(parts) > 1 else ""
        if ours in FOLDERS and ours not in MAY_IMPORT[folder] | {folder}:
            broken.append(f"{place} imports {name}: {folder}/ may import {sorted(MAY_IMPORT[folder]) or 'nothing'}")
    assert not broken, "\n".join(broken)


def test_learners_import_only_the_types_of_rollout_and_the_z_scores_of_rewards() -> None:
    allowed_names = LEARNERS_MAY_IMPORT_OF_ROLLOUT | LEARNERS_MAY_IMPORT_OF_REWARDS
    broken = [
        f"{place} imports {name}"
        for place, file, name in all_imports()
        if file.startswith("learners/") and name.startswith(("raylign.rollout", "raylign.rewards"))
        if not any(f"{name}.".startswith(f"{allowed}.") for allowed in allowed_names)
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("library", HEAVY_ONLY_IN)
def test_ray_vllm_and_deepspeed_are_imported_only_where_they_are_hosted(library: str) -> None:
    broken = [
        f"{place} imports {name}; only {' and '.join(HEAVY_ONLY_IN[library])} may"
        for place, file, name in all_imports()
        if name.split(".")[0] == library and not file.startswith(HEAVY_ONLY_IN[library])
    ]
    assert not broken, "\n".join(broken)


def test_only_the_builder_names_an_inference_engine() -> None:
    """Another engine then touches the builder and its config; unit tests and benchmarks may build one directly."""
    named = {file for _, file, name in all_imports() if name.startswith("raylign.rollout.engine.vllm_engine")}
    assert named == {"rollout/engine/builder.py"}


def imports_of_modules() -> dict[str, set[str]]:
    """Which modules of ours each module imports, wherever in the file and for whatever purpose, types included."""
    names = {
        path: "raylign." + path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in modules()
    }
    known = set(names.values())
    graph: dict[str, set[str]] = {}
    for path, name in names.items():
        imported = {found for _, found in imported_names(path)}
        imported |= {found.rpartition(".")[0] for found in imported}
        graph[name] = (imported & known) - {name}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one again at the end; empty where there is none."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


# What all methods have in common, and the one place that names them.
KNOWN_OF_ALGORITHMS = {"base", "facts", "registry"}


def test_nothing_outside_the_algorithms_names_one() -> None:
    """The loop, the curricula, the checks and the ranks know what an algorithm is, and none by its name."""
    broken = [
        f"{place} imports {name}"
        for place, file, name in all_imports()
        if not file.startswith("learners/algorithms/")
        if name.startswith("raylign.learners.algorithms.") and name.split(".")[3] not in KNOWN_OF_ALGORITHMS
    ]
    registry = importlib.import_module("raylign.learners.algorithms.registry")
    for path in modules():
        if path.is_relative_to(ROOT / "learners" / "algorithms"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and "algorithm" in ast.unparse(node.left):
                words = {str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)}
                named = words & set(registry.ALGORITHM_NAMES)
                broken += [f"{path.relative_to(ROOT)}:{node.lineno} compares with {name!r}" for name in sorted(named)]
    assert not broken, "\n".join(broken)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert not (circle := circle_in(imports_of_modules())), " -> ".join(circle)


def test_a_circle_of_imports_is_found() -> None:
    assert set(circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()})) == {"b", "c"}
    assert circle_in({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_all_imports_of_ours_are_absolute() -> None:
    """A relative or bare import works from one place and gives a second copy of a class from another."""
    broken = [
        f"{place} imports {name}: write raylign.…"
        for place, _, name in all_imports()
        if name.startswith(".") or name.split(".")[0] in FOLDERS
    ]
    assert not broken, "\n".join(broken)


def test_an_import_inside_a_function_or_by_string_is_seen(tmp_path: Path) -> None:
    source = "def f():\n    from raylign.jobs import train\n    importlib.import_module('vllm.envs')\nfrom . import x\n"
    (tmp_path / "m.py").write_text(source)
    assert sorted(imported_names(tmp_path / "m.py")) == [(2, "raylign.jobs.train"), (3, "vllm.envs"), (4, "..x")]


def raylign_in_a_fresh_process(*words: str) -> tuple[str, set[str]]:
    """Runs the command line; its output, and the top-level modules it had imported."""
    program = (
        "import json, runpy, sys\n"
        f"sys.argv = {['raylign', *words]!r}\n"
        "status = 0\n"
        "try:\n"
        "    runpy.run_module('raylign.jobs', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    status = end.code\n"
        "loaded = sorted({name.split('.')[0] for name in sys.modules})\n"
        "sys.stderr.write('\\n' + json.dumps([status, loaded]))\n"
    )
    done = finished([sys.executable, "-c", program], env=os.environ | {"COLUMNS": "120"})
    assert done.returncode == 0, done.stderr
    said, _, last_line = done.stderr.rpartition("\n")
    status, loaded = json.loads(last_line)
    assert not status, said
    return done.stdout, set(loaded)


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["train", "--help"],
        ["train", "--config", "jobs/recipes/grpo_arithmetic.yaml", "--print-config"],
        ["evaluate", "--config", "jobs/recipes/evaluate_arithmetic.yaml", "--print-config"],
    ],
    ids=" ".join,
)
def test_help_and_config_validation_import_nothing_heavy(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    printed, loaded = raylign_in_a_fresh_process(*words)
    assert printed.strip()
    assert not loaded & NOT_FOR_HELP


def test_every_module_of_configs_imports_without_heavy_libraries() -> None:
    """All that --help and validation stand on; a class of a part may need torch only when it is used."""
    program = (
        "import sys, raylign.jobs.config.train\n"
        f"heavy = {sorted(NOT_FOR_HELP)!r}\n"
        "print(*[name for name in heavy if name in sys.modules])\n"
    )
    done = finished([sys.executable, "-c", program])
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_help_takes_less_than_a_second_of_the_processor() -> None:
    """Processor time, not the clock's: what else the machine does is not our cost. The best of a few, since a busy
    machine also has colder caches."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        raylign_in_a_fresh_process("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if seconds[-1] < 1.0:
            return
    pytest.fail(f"raylign --help took {min(seconds):.2f} s of the processor at best")
