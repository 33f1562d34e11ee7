#!/usr/bin/env bash
# Several machines. Run the same line on each, with the name or address of one of them:
#   HEAD=10.0.0.1 NODES=2 launch/torchrun-nodes.sh train.py ARGUMENTS...
# On a machine whose own name resolves to 127.0.1.1 (many are so set up) torchrun cannot tell that it is the head: set IS_HEAD=true
# there and IS_HEAD=false on the others, and ADDRESS to each machine's own.
set -euo pipefail

: "${HEAD:?set HEAD to the name or address of one of the machines, the same on all}"
: "${NODES:?set NODES to the number of machines}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

line=(torchrun --nnodes "$NODES" --nproc-per-node "${NPROC:-auto}")
line+=(--rdzv-backend c10d --rdzv-id "${JOB:-job}" --rdzv-endpoint "$HEAD:${PORT:-29400}")
if [ -n "${IS_HEAD:-}" ]; then line+=(--rdzv-conf "is_host=$IS_HEAD"); fi
if [ -n "${ADDRESS:-}" ]; then line+=(--local-addr "$ADDRESS"); fi
exec "${line[@]}" "$@"
