"""Measure the cost of a step's all-reduce: waited for, overlapped, and left out."""

import json
import os
import socket
import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from .emulated_network import Network, why_not
from .report import Report, ninety

COLUMNS = {
    "world": ("ranks", ""),
    "delay": ("one-way latency, ms", ".0f"),
    "mode": ("sync", ""),
    "ms": ("step, ms", ".1f"),
    "added": ("added by the reduce, ms", ".1f"),
    "slowest": ("90 % of the steps within, ms", ".1f"),
}
# One rank. `frozen` steps have no reduce: the same work without it.
RANK = """
import datetime, json, os, sys, time
import torch, torch.distributed as dist, dadapt_dist as dd
options = json.loads(sys.argv[1])
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
torch.set_num_threads(1)
taken = {}
for mode in ("none", "next_step", "step"):
    params = [torch.nn.Parameter(torch.ones(1000)) for _ in range(options["tensors"])]
    more = {"freeze_after": 1} if mode == "none" else {"sync": mode}
    optimizer = dd.Prodigy(params, d0=1e-3, **more)
    dist.barrier()
    ends = [time.perf_counter()]
    for step in range(options["steps"] + 3):  # nothing between two steps: what a reduce could hide behind is on the clock
        for p in params:
            p.grad = torch.full_like(p, 1.0 + step)
        until = ends[-1] + options["compute"]
        while time.perf_counter() < until:  # forward and backward of a device: the host waits for it
            time.sleep(max(0.0, min(0.001, until - time.perf_counter())))
        optimizer.step()
        ends.append(time.perf_counter())
    taken[mode] = [end - start for start, end in zip(ends, ends[1:])][3:]
    optimizer.step_size._finish()
    dist.barrier()
if dist.get_rank() == 0:
    sys.stdout.write("taken " + json.dumps(taken) + "\\n")
dist.destroy_process_group()
"""


def measure(worlds: list[int], delays_ms: list[float], compute_ms: float, steps: int, tensors: int) -> Report:
    """Time steps of `compute_ms` and the optimizer over emulated hosts. Raises NetworkError where none can be emulated."""
    title = f"Steps of {compute_ms:.0f} ms and a Prodigy step over {tensors} tensors, gloo"
    report = Report(title, COLUMNS, facts={"compute_ms": compute_ms, "steps": steps})
    reason = why_not()
    for world in worlds:
        for delay in delays_ms if reason is None else [0.0]:
            taken = _run(world, delay, compute_ms, steps, tensors, emulated=reason is None)
            none = statistics.median(taken["none"])
            for mode, times in taken.items():
                report.rows.append({
                    "world": world, "delay": delay, "mode": mode, "ms": statistics.median(times) * 1e3,
                    "added": (statistics.median(times) - none) * 1e3,
                    "slowest": ninety(times) * 1e3, "times": times,
                })  # fmt: skip
    if reason is None:
        report.notes.append(
            "Every rank is on a host of its own: a network namespace behind a switch that delays frames."
        )
    else:
        report.notes.append(f"Without added latency, over the loopback interface: {reason}.")
    return report


def _run(world: int, delay_ms: float, compute_ms: float, steps: int, tensors: int, *, emulated: bool) -> dict[str, Any]:
    options = json.dumps({"compute": compute_ms / 1e3, "steps": steps, "tensors": tensors})
    patience = 60 + 10 * steps * (compute_ms / 1e3 + delay_ms / 50)
    with ExitStack() as stack:
        network = stack.enter_context(Network(world, delay_ms / 1e3)) if emulated else None
        port = 29531 if network else _free_port()
        ranks = [stack.enter_context(_start(rank, world, port, network, options)) for rank in range(world)]
        try:
            outputs = [process.communicate(timeout=patience) for process in ranks]
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{world} ranks, {delay_ms:g} ms apart, were not done in {patience:.0f} s") from error
        finally:
            for process in ranks:
                process.kill()
    for process, (_, said) in zip(ranks, outputs, strict=True):
        if process.returncode != 0:
            raise RuntimeError(f"a rank ended with {process.returncode}: {said.strip()[-500:]}")
    [found] = [text for text in outputs[0][0].splitlines() if text.startswith("taken ")]
    return dict(json.loads(found.removeprefix("taken ")))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(rank: int, world: int, port: int, network: Network | None, options: str) -> "subprocess.Popen[str]":
    address = network.addresses[0] if network else "127.0.0.1"
    where = {
        "RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": address, "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "eth0" if network else "lo0" if sys.platform == "darwin" else "lo",
    }  # fmt: skip
    line = [*(network.inside(rank) if network else []), sys.executable, "-W", "ignore", "-c", RANK, options]
    env = {**os.environ, **where}
    return subprocess.Popen(line, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
