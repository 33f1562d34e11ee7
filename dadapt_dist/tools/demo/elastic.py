"""Start the ranks with torch's elastic launcher in this process, and make sure that all of them end."""

import logging
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Sequence

__all__ = ["exit_with_launcher", "launch"]


def launch(module: str, arguments: Sequence[str], nproc: int) -> int:
    """Run `python -m module *arguments` on nproc ranks of this machine; returns 0 or the code of the first that failed.

    128 + n stands for a rank killed by signal n, 130 for Ctrl-C. When one rank fails, the launcher ends the others.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if nproc >= 2:  # as torchrun does: ranks that all take every core slow each other down
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)  # it reports every signal it passes on
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code
    except SignalException as stop:
        return 128 + int(stop.sigval)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def exit_with_launcher() -> None:
    """End this rank, without a traceback, on Ctrl-C and soon after its launcher is gone. Call once in a rank.

    A launcher killed by SIGKILL cannot end its ranks: they would train on, beside the run that --resume starts.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(128 + signal.SIGTERM)
