#!/usr/bin/env bash
# One machine, one process for each GPU (or NPROC processes): launch/torchrun-one-node.sh train.py ARGUMENTS...
set -euo pipefail

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

exec torchrun --standalone --nproc-per-node "${NPROC:-auto}" "$@"
