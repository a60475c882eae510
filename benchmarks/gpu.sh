#!/usr/bin/env bash
# All that is to be known of one NVIDIA GPU, in less than 8 minutes, into a folder:
#   benchmarks/gpu.sh [FOLDER] [--rehearse] [--only PART...] [--seconds=N] [--python=FILE]
# PYTHON has jax for the GPU; --python has PyTorch and transformers, if another one does.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
looks='from importlib.util import find_spec
print(*[p for p in ("jax", "flax", "optax", "orbax", "jaxtyping") if not find_spec(p)], sep=", ")'
if ! lacking=$("$PYTHON" -c "$looks" 2> /dev/null) || [ -n "$lacking" ]; then
    echo "error: PYTHON=$PYTHON has no ${lacking:-Python}: name one that has, as in PYTHON=.venv/bin/python" >&2
    exit 2
fi
exec "$PYTHON" -m benchmarks gpu "$@"
