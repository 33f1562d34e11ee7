"""Read and write memory as a step does, and compute next to nothing: what memory alone allows."""

import ctypes
from array import array
from collections.abc import Sequence

import torch
from torch import Tensor

from ...kernels import cpu_c, cpu_c_library
from ...kernels.cpu_c_program import BUFFERS, SUMS


def traffic(tensors: Sequence[Sequence[Tensor]], written: int, by: float = 1.0, x: str = "written") -> None:
    """Read and write memory as a step does, and compute next to nothing: what memory alone allows.

    tensors: for each parameter x, g and further ones, contiguous float32 on the CPU and of one size. x and the first
    `written` of the further ones are read, multiplied with `by` and written, all others read. x: "read" leaves x as it is, and
    "" does not touch it.
    """
    loaded = cpu_c_library.load()
    assert loaded is not None, "the traffic is measured by the compiled library"
    used = len(tensors[0]) - 2
    rows = [[t[0].numel(), *(part.data_ptr() for part in t), *[0] * (BUFFERS - used), 0, 0, 0, 0] for t in tensors]
    memory = array("q", [number for row in rows for number in row])
    size = 8 * len(rows[0])
    places = array("q", [memory.buffer_info()[0] + size * index for index in range(len(rows))])
    loaded.dadapt_traffic.restype = ctypes.c_void_p
    job = cpu_c.Job(scale=1.0, safe=cpu_c.LARGEST, method=loaded.dadapt_traffic(used), threads=torch.get_num_threads())
    job.coefficient[:4] = [written, used, by, ("", "read", "written").index(x)]
    weights, out = array("d", [1.0] * len(rows)), (ctypes.c_double * SUMS)()
    arguments = (
        places.buffer_info()[0],
        weights.buffer_info()[0],
        ctypes.addressof(job),
        ctypes.addressof(out),
        None,
        None,
    )
    cpu_c.check_result(loaded.dadapt_step(len(rows), *arguments), len(rows))
