#!/usr/bin/env bash
# Makes .venv with Python 3.11 and fills it from the lock of this machine: `requirements/install.sh cpu|cuda`.
# PYTHON=/path/to/python3.11 chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
flavour=$1

fits() { # the locks are resolved for 3.11; Debian and Ubuntu ship venv apart from python3.11
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1
}

for other in cpu cuda; do # both builds of vLLM own the same folder: never one over the other
    if [ "$other" != "$flavour" ] && [ -e ".venv/installed-$other" ]; then rm -rf .venv; fi
done

if ! fits .venv/bin/python; then
    python=
    for candidate in ${PYTHON:-python3.11 /usr/bin/python3.11 python3 python}; do
        if fits "$candidate"; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then
        {
            echo "error: raylign needs Python 3.11 with its venv module; none of these is one: ${PYTHON:-python3.11 python3 python}"
            echo "  Debian, Ubuntu:  sudo apt-get install python3.11 python3.11-venv"
            echo "  Fedora:          sudo dnf install python3.11"
            echo "  anywhere:        uv python install 3.11    or    pyenv install 3.11"
            echo "then run make again, with PYTHON=/path/to/python3.11 where it is not on PATH."
        } >&2
        exit 1
    fi
    rm -rf .venv
    "$python" -m venv .venv
fi
.venv/bin/python requirements/environment.py install "$flavour"
