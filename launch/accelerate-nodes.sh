#!/usr/bin/env bash
# Accelerate on several machines. Run the same line on each, with its own RANK_OF_NODE from 0:
#   HEAD=10.0.0.1 NODES=2 RANK_OF_NODE=0 CONFIG=configs/accelerate/fsdp2.yaml launch/accelerate-nodes.sh train.py ARGUMENTS...
set -euo pipefail

: "${HEAD:?set HEAD to the address of the machine with RANK_OF_NODE=0}"
: "${NODES:?set NODES to the number of machines}"
: "${RANK_OF_NODE:?set RANK_OF_NODE to the number of this machine, from 0}"
: "${CONFIG:?set CONFIG to a file of configs/accelerate}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

# standard: for DeepSpeed, Accelerate would otherwise start the other machines itself, over ssh.
exec accelerate launch --config_file "$CONFIG" --deepspeed_multinode_launcher standard \
  --num_machines "$NODES" --machine_rank "$RANK_OF_NODE" --num_processes "$((NODES * ${NPROC:-8}))" \
  --main_process_ip "$HEAD" --main_process_port "${PORT:-29500}" "$@"
