"""Measure the memory of an optimizer between steps and at the peak of a step."""

import gc
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from .peers import OURS, Peer, peers_of
from .report import Report
from .shapes import parameters

COLUMNS = {
    "name": ("optimizer", ""),
    "options": ("options", ""),
    "dtype": ("parameters", ""),
    "state": ("state bytes/param", ".2f"),
    "peak": ("peak of a step, % of the parameters", ".2f"),
}
BF16 = torch.bfloat16
VARIANTS: list[tuple[str, dict[str, Any], torch.dtype]] = [
    *[(method, {}, torch.float32) for method in OURS],
    *[(method, {"statistics_dtype": BF16}, torch.float32) for method in ("prodigy", "dadapt_adam", "dadapt_lion")],
    ("prodigy", {"betas": (0.0, 0.999)}, torch.float32),
    ("prodigy", {"slice_p": 11}, torch.float32),
    ("prodigy", {"slice_p": 11, "statistics_dtype": BF16}, torch.float32),
    ("prodigy", {"freeze_after": 2}, torch.float32),
    ("prodigy", {}, BF16),
    ("prodigy", {"statistics_dtype": BF16}, BF16),
    ("prodigy", {"state_dtype": BF16}, BF16),
    *[(method, {"backend": "eager"}, torch.float32) for method in OURS],
]


def measure(numel: int, device: str) -> Report:
    """State and peak of every method and option, and of the peers, over one tensor of `numel` elements."""
    report = Report(f"Memory over {numel / 1e6:.1f} million parameters, {device}", COLUMNS)
    for method, options, dtype in VARIANTS:
        params = parameters([(numel,)], dtype, device)
        shown = ", ".join(f"{name}={value}" for name, value in options.items())
        row = {"name": method, "options": shown, "dtype": str(dtype)[6:]}
        report.rows.append(row | measured(OURS[method](params, **options), params, device))
    for peer in _peers():
        params = parameters([(numel,)], torch.float32, device)
        row = {"name": peer.name, "options": "", "dtype": "float32"}
        report.rows.append(row | measured(peer.make(params), params, device))
    report.notes.append("The peak is what a step has allocated at most beyond what it began with.")
    return report


def _peers() -> Iterator[Peer]:
    """Each peer of any method once, where it is installed and needs no building."""
    peers = {peer.name: peer for method in OURS for peer in peers_of(method)}
    return (peer for peer in peers.values() if peer.is_installed and not peer.slow)


def measured(optimizer: Any, params: Sequence[Tensor], device: str) -> dict[str, float]:
    """State bytes a parameter, and the peak of one step in percent of the parameters' bytes."""
    for _ in range(4):
        optimizer.step()
    count, size = sum(p.numel() for p in params), sum(p.numel() * p.element_size() for p in params)
    states = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    held = sum(t.numel() * t.element_size() for t in states)
    return {"state": held / count, "peak": 100 * peak(optimizer.step, device) / size}


def peak(call: Any, device: str) -> int:
    """Bytes of tensors that a call has alive at most, beyond those that were there before."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated() - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=False) as recorded:
        call()
    alive = most = 0
    for event in sorted(recorded.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            alive += event.nbytes()
            most = max(most, alive)
    return most
