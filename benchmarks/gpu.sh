#!/usr/bin/env bash
# All that is to be known of one NVIDIA GPU, in less than 8 minutes, into a folder:
#   benchmarks/gpu.sh [FOLDER] [--rehearse] [--only PART...] [--seconds=N] [--python=FILE]
# PYTHON has jax for the GPU; --python has PyTorch and transformers, if another one does.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
for package in jax flax optax orbax.checkpoint jaxtyping; do
    if ! "$PYTHON" -c "import $package" > /dev/null 2>&1; then
        echo "error: PYTHON=$PYTHON has no $package: name one that has, as in PYTHON=.venv/bin/python" >&2
        exit 2
    fi
done
exec "$PYTHON" -m benchmarks gpu "$@"
