#!/usr/bin/env bash
# Several machines that may come and go: the run starts again, from its last checkpoint, with those that are there.
#   HEAD=10.0.0.1 NODES=2:4 launch/torchrun-elastic.sh train.py ARGUMENTS...
# The script must load its newest checkpoint at the start. dadapt_dist's state reshards through torch.distributed.checkpoint.
set -euo pipefail

# Ranks of a new attempt must not meet at the addresses of the one before, which torchrun's own store still has.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
export NODES="${NODES:?set NODES to the least and the largest number of machines, such as 2:4}"

exec "$(dirname "${BASH_SOURCE[0]}")/torchrun-nodes.sh" --max-restarts "${RESTARTS:-3}" "$@"
