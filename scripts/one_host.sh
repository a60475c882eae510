#!/usr/bin/env bash
# Several processes on this host, process I with GPU I alone:
#   scripts/one_host.sh 8 train.py --config=... --workdir=DIR
# (One process with all GPUs needs no script: python train.py ...)
set -euo pipefail

count=$1
shift
port=${PORT:-9876}
python=${PYTHON:-python3}
pids=()

# Any of them is enough: they stop together, with a checkpoint.
trap 'kill -TERM "${pids[0]}" 2>/dev/null || true' INT TERM

for ((i = 0; i < count; i++)); do
  CUDA_VISIBLE_DEVICES=$i "$python" "$@" \
    --coordinator="localhost:$port" --processes="$count" --process="$i" &
  pids+=("$!")
done

status=0
for pid in "${pids[@]}"; do
  ended=0
  wait "$pid" || ended=$?
  # A signal ends the first wait, not the process.
  while kill -0 "$pid" 2>/dev/null; do
    ended=0
    wait "$pid" || ended=$?
  done
  ((status)) || status=$ended
done
exit "$status"
