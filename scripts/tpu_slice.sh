#!/usr/bin/env bash
# A run on every host of a Cloud TPU slice, from your own machine:
#   scripts/tpu_slice.sh NAME ZONE install
#   scripts/tpu_slice.sh NAME ZONE train.py --config=... --workdir=gs://BUCKET/DIR
# The repository is cloned into ~/cartesian_moe_jax of each host, from REPOSITORY.
set -euo pipefail

name=$1
zone=$2
shift 2
folder=cartesian_moe_jax

if [[ $1 == install ]]; then
  : "${REPOSITORY:?the address that hosts clone from}"
  printf -v command 'git clone %q %s && cd %s && %s -m venv .venv && %s' \
    "$REPOSITORY" "$folder" "$folder" "${PYTHON:-python3.11}" \
    '.venv/bin/pip install -r requirements.txt && .venv/bin/pip install ".[tpu,gcs]"'
else
  printf -v command '%q ' .venv/bin/python "$@"
  command="cd $folder && exec $command"
fi
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$command"
