"""Reduce over an MPI communicator where there is no torch.distributed: `Prodigy(params, process_group=MPILayout())`."""

from .comm.mpi import MPILayout

__all__ = ["MPILayout"]
