#!/usr/bin/env bash
# Sets up a virtual environment with tested versions. Usage: tools/install.sh VENV EXTRAS
#   PYTHON   the interpreter to build it from (3.11 or newer; default: the newest found)
#   TORCH    auto (default): PyTorch as pip resolves it, but never a CUDA stack where there is no GPU
#            cpu: PyTorch's CPU build in any case;  as-resolved: whatever pip resolves
set -euo pipefail
venv=$1 extras=$2
here=$(cd "$(dirname "$0")/.." && pwd)
constraints=$here/constraints.txt

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

python=${PYTHON:-}
if [ -z "$python" ]; then
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && new_enough "$candidate"; then python=$candidate; break; fi
    done
fi
if [ -z "$python" ] || ! new_enough "$python"; then
    echo "safehold needs Python 3.11 or newer; found: $(python3 --version 2>&1 || echo none). Set PYTHON=/path/to/python3.11" >&2
    exit 1
fi
if [ ! -x "$venv/bin/pip" ]; then
    "$python" -m venv "$venv" || {
        echo "could not make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 1
    }
fi
pip=$venv/bin/pip
quiet=(--quiet --disable-pip-version-check)
"$pip" install "${quiet[@]}" --upgrade 'pip>=25.1'  # its dry runs read metadata without downloading packages

if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
    torch=$(grep -E '^torch==' "$constraints")
    choice=${TORCH:-auto}
    if [ "$choice" = auto ]; then
        choice=as-resolved
        if ! { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }; then
            plan=$("$pip" install "${quiet[@]}" --dry-run --report - "$torch")
            if grep -Eq '"name": "(nvidia|cuda|triton)' <<<"$plan"; then choice=cpu; fi
        fi
    fi
    case $choice in
        as-resolved) "$pip" install "${quiet[@]}" --constraint "$constraints" "$torch" ;;
        cpu)
            # uv knows the index of PyTorch's CPU builds; pip would have to be told where it is
            "$pip" install "${quiet[@]}" 'uv>=0.7'
            "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --torch-backend=cpu "$torch"
            ;;
        *) echo "TORCH=$choice is not known; use auto, cpu or as-resolved" >&2; exit 2 ;;
    esac
fi
"$pip" install "${quiet[@]}" --constraint "$constraints" --editable "$here[$extras]"
