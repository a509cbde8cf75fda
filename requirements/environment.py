"""Fills the virtual environment that runs this file from a lock, and remakes the locks.

Given `install cpu|cuda`, `packages cpu|cuda` or `lock [--upgrade]`, and pip's own settings (index, find-links,
certificate); gives an environment with exactly the versions of the lock, or new locks. Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
UV = [sys.executable, "-m", "uv"]
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TORCH_NOT_FOUND = """\
{torch} was found neither where pip looks on this machine nor at PyTorch's own index of CPU builds,
{index}. The ordinary package index does not carry it. One of these helps:
  - let this machine reach {index}
  - fetch the wheel of {torch} for Python 3.11 on another machine, put it in a folder, and run
    PIP_FIND_LINKS=/that/folder make install
  - name a mirror that has it: PIP_EXTRA_INDEX_URL=https://… make install
`pip config list` shows where pip looks now. What pip said last:
{said}"""
# Lines of pip and uv worth showing while they work: large downloads, builds and the totals.
WORTH_SHOWING = re.compile(r"\s*(Downloading .*\(\d{2,}[.\d]* ?M(i?)B\)|Building \S+==|Prepared |Installed )")


class InstallError(Exception):
    """The installation cannot go on; the message says what to do."""


def pip_settings() -> dict[str, str]:
    """What pip's configuration files and environment variables say, strongest last: {"find-links": "/wheels"}."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=True).stdout
    return parse_pip_settings(listed)


def parse_pip_settings(listed: str) -> dict[str, str]:
    """Reads the lines of `pip config list`; a variable beats the [install] section, which beats [global]."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        name, separator, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if separator and section in found:
            found[section][key] = str(ast.literal_eval(value))
    return found["global"] | found["install"] | found[":env:"]


def uv_options(settings: Mapping[str, str]) -> list[str]:
    """The same places for uv, which does not read pip's configuration."""
    options = ["--index-strategy", "unsafe-best-match"]  # as pip: the best version of all indexes
    names = {
        "index-url": "--default-index",
        "extra-index-url": "--index",
        "find-links": "--find-links",
        "trusted-host": "--allow-insecure-host",
    }
    for pip_name, uv_name in names.items():
        for value in settings.get(pip_name, "").split():
            options += [uv_name, value]
    return options + ["--no-index"] * (settings.get("no-index", "0").lower() in ("1", "true", "yes", "on"))


def uv_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """pip's certificates, proxy and patience for uv; what the user set for uv itself stays."""
    names = {
        "cert": "SSL_CERT_FILE",
        "client-cert": "SSL_CLIENT_CERT",
        "proxy": "ALL_PROXY",
        "default-timeout": "UV_HTTP_TIMEOUT",
        "timeout": "UV_HTTP_TIMEOUT",
    }
    return {names[key]: value for key, value in settings.items() if key in names} | dict(os.environ)


def run(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    """Runs an installer, shows the lines worth showing, and raises with its last words when it fails."""
    lines: list[str] = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if WORTH_SHOWING.match(line):
                print("   ", line.strip(), flush=True)
    if process.returncode != 0:
        raise InstallError("\n".join(lines[-25:]))


def pinned(lock: Path, package: str) -> str:
    """The line of a lock that pins `package`, such as "torch==2.13.0"."""
    return next(line for line in lock.read_text().splitlines() if line.startswith(f"{package}=="))


def install_torch_cpu(torch: str) -> None:
    """PyTorch's CPU build: from wherever pip finds it, else from PyTorch's own index."""
    command = [*PIP, "install", "--no-deps", "--no-compile"]
    try:
        run([*command, torch])
    except InstallError:
        print(f"    not where pip looks; trying {TORCH_CPU_INDEX}", flush=True)
        try:
            run([*command, "--retries", "1", "--index-url", TORCH_CPU_INDEX, torch])
        except InstallError as error:
            raise InstallError(TORCH_NOT_FOUND.format(torch=torch, index=TORCH_CPU_INDEX, said=error)) from None


def install_lock(lock: Path) -> None:
    """Everything in the lock with uv, which takes a tenth of pip's time; with pip where uv cannot."""
    settings = pip_settings()
    try:
        run([*PIP, "install", "--no-deps", pinned(lock, "uv")])
        run(
            [*UV, "pip", "install", "--python", sys.executable, "--no-deps", "-r", str(lock), *uv_options(settings)],
            uv_environment(settings),
        )
    except InstallError as error:
        print(f"{error}\n    uv could not; pip does it, in a few minutes", flush=True)
        run([*PIP, "install", "--no-deps", "--no-compile", "-r", str(lock)])


def compile_bytecode() -> None:
    """Compile all packages once, here. A run starts ten processes, and where Python may not write bytecode
    (PYTHONDONTWRITEBYTECODE) every one of them would compile torch, vllm and ray again: 15 s of CPU instead of 6."""
    packages = sysconfig.get_path("purelib")
    print("    compiling bytecode", flush=True)
    # a few packages ship templates that are no Python: their errors are of no interest
    subprocess.run(
        [sys.executable, "-m", "compileall", "-q", "-j", "0", packages],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def install(flavour: str, with_raylign: bool) -> None:
    """The locked packages, then raylign itself in place where asked."""
    started = time.monotonic()
    lock = HERE / f"{flavour}.txt"
    num_packages = len(lock.read_text().splitlines())
    print(f"Installing the {num_packages} packages of requirements/{lock.name} in {sys.prefix}", flush=True)
    if flavour == "cpu":
        install_torch_cpu(pinned(lock, "torch"))
    install_lock(lock)
    compile_bytecode()
    if with_raylign:
        run([*PIP, "install", "--no-deps", "--no-index", "--no-build-isolation", "-e", str(HERE.parent)])
    print(f"Installed in {time.monotonic() - started:.0f} s", flush=True)


def lock(upgrade: bool) -> None:
    """Remakes both locks; versions stay where they still fit, unless `upgrade`.

    CUDA first: vLLM pins more there. The CPU lock is held to the same versions of whatever both have.
    """
    settings = pip_settings()
    compile_lock = [*UV, "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--python-version", "3.11"]
    compile_lock += ["--python-platform", "x86_64-manylinux_2_28"]  # versions that have wheels for Linux of 2019 on
    compile_lock += uv_options(settings) + ["--upgrade"] * upgrade
    environment = uv_environment(settings)
    cuda = HERE / "cuda.txt"
    run([*compile_lock, str(HERE / "cuda.in"), "-o", str(cuda)], environment)
    constraints = HERE / "cuda-constraints.tmp"
    constraints.write_text("".join(f"{line}\n" for line in cuda.read_text().splitlines() if line[:7] != "torch=="))
    try:
        held = ["-c", str(constraints), "--override", str(HERE / "cpu-overrides.txt")]
        run([*compile_lock, str(HERE / "cpu.in"), "-o", str(HERE / "cpu.txt"), *held], environment)
    finally:
        constraints.unlink()
    run([sys.executable, str(HERE / "shared_paths.py")])
    print("Remade requirements/cuda.txt and requirements/cpu.txt; `git diff requirements` shows what moved")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, purpose in (("install", "a lock and raylign in place"), ("packages", "a lock without raylign")):
        commands.add_parser(name, help=purpose).add_argument("flavour", choices=["cpu", "cuda"])
    remake = commands.add_parser("lock", help="remake both locks")
    remake.add_argument("--upgrade", action="store_true", help="take the newest versions")
    arguments = parser.parse_args()
    try:
        if arguments.command == "lock":
            lock(arguments.upgrade)
        else:
            install(arguments.flavour, with_raylign=arguments.command == "install")
    except InstallError as error:
        sys.exit(f"\nerror: {error}")


if __name__ == "__main__":
    main()
