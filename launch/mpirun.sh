#!/usr/bin/env bash
# Processes by MPI, on the machines of a hostfile. The script starts torch.distributed by dadapt_dist.launch.init(), or trains
# with dadapt_dist.MPILayout and no torch.distributed:
#   N=16 HOSTFILE=launch/hostfile launch/mpirun.sh train.py ARGUMENTS...
# MPI must be the one that mpi4py was built for; `pip install mpi4py mpich` brings both.
set -euo pipefail

: "${N:?set N to the number of processes}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
mpirun="${MPIRUN:-mpirun}"

line=("$mpirun" -n "$N")
if "$mpirun" --version 2>/dev/null | grep -q 'Open MPI'; then
  # Open MPI binds two processes to one core each, and passes no variables on unless they are named.
  line+=(--bind-to none -x OMP_NUM_THREADS)
  if [ -n "${HOSTFILE:-}" ]; then line+=(--hostfile "$HOSTFILE"); fi
else # MPICH and Intel MPI
  export I_MPI_PIN=0
  if [ -n "${HOSTFILE:-}" ]; then line+=(-machinefile "$HOSTFILE"); fi
fi
exec "${line[@]}" "${PYTHON:-python}" -m mpi4py "$@" # -m mpi4py: a rank that fails ends all
