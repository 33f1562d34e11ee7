#!/usr/bin/env bash
# DeepSpeed's launcher, on the machines of a hostfile that ssh reaches without a password:
#   HOSTFILE=launch/hostfile-slots launch/deepspeed.sh train.py --deepspeed_config configs/deepspeed/zero3-bf16.json
# Without HOSTFILE it is this machine alone, with NPROC processes. Variables for the other machines go to ~/.deepspeed_env, a
# NAME=VALUE a line: it passes on few others, and none of GLOO_ or OMP_.
set -euo pipefail

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

line=(deepspeed --no_local_rank)
if [ -n "${HOSTFILE:-}" ]; then line+=(--hostfile "$HOSTFILE"); fi
if [ -n "${NPROC:-}" ]; then line+=(--num_gpus "$NPROC"); fi
exec "${line[@]}" "$@"
