"""The life of one rank of a `WorkerPool`, from start to end.

The parent sends a pickled `(fn, args, kwargs)` and receives a pickled `(True, result)` or `(False, (exception, text))`;
the first answer, before any call, tells that the rank has joined the group.
"""

import contextlib
import faulthandler
import os
import pickle
import random
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

GROUP_TIMEOUT = timedelta(seconds=60)
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def serve(rank: int, world_size: int, port: int, pipe: Connection, stack_file: str) -> None:
    """A worker's life: join the group, then answer calls until the pipe closes."""
    with open(stack_file, "w") as stack:
        faulthandler.register(signal.SIGUSR1, file=stack, all_threads=False)
        _answer(pipe, _join, (rank, world_size, port), {})
        while True:
            try:
                message = pipe.recv_bytes()
            except (EOFError, ConnectionResetError):
                os._exit(0)  # the parent is gone: leave at once, whatever threads of the group still wait
            _answer(pipe, _call, (message,), {})


def _join(rank: int, world_size: int, port: int) -> None:
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    os.environ.update({name: str(value) for name, value in names.items()})
    os.environ.update(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME=LOOPBACK, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    _allow_descriptors(8192)
    warnings.filterwarnings("error", module=r"dadapt_dist(\.|$)")
    store = dist.TCPStore("127.0.0.1", port, is_master=False, timeout=GROUP_TIMEOUT)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=GROUP_TIMEOUT)


def _allow_descriptors(wanted: int) -> None:
    """Raise the soft limit of open files: every process group of a test holds sockets until the process ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _call(message: bytes) -> Any:
    fn, args, kwargs = pickle.loads(message)
    # Every call starts from the same random numbers, so that a test's result does not depend on which tests ran before.
    torch.manual_seed(0)
    random.seed(0)
    return fn(*args, **kwargs)


def _answer(pipe: Connection, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    try:
        answer = pickle.dumps((True, fn(*args, **kwargs)))
    except BaseException as error:
        answer = pickle.dumps((False, (_portable(error), traceback.format_exc())))
    with contextlib.suppress(BrokenPipeError):  # the parent is gone; the next receive ends this process
        pipe.send_bytes(answer)


def _portable(error: BaseException) -> BaseException | None:
    """The exception if it survives pickling, else None: its traceback's text then has to do."""
    if not isinstance(error, Exception):  # SystemExit or KeyboardInterrupt of a worker must not stop pytest
        return None
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return None
    return error
