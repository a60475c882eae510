#!/usr/bin/env bash
# All that is to be known of one NVIDIA GPU, in less than 8 minutes, into a folder:
#   benchmarks/gpu.sh [FOLDER] [--rehearse] [--only PART...] [--seconds=N] [--python=FILE]
# PYTHON has jax for the GPU; --python has PyTorch and transformers, if another one does.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec "${PYTHON:-python3}" -m benchmarks gpu "$@"
