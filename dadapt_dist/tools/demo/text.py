"""Bytes that the demo learns, and those of them that form the batch of a step."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

BATCH = 24  # sequences a step over all ranks, whatever the layout: loss curves are comparable. It has many divisors
HELD_OUT = 0.05  # the last part of the text is never trained on
HELD_OUT_BATCHES = 20
MOST_BYTES = 8_000_000  # more than a short run reads
_SKIPPED = {"test", "tests", "site-packages", "dist-packages", "__pycache__", ".git"}


@dataclass(frozen=True)
class Text:
    """Bytes to learn and to be judged on, uint8 [n]; fingerprint: SHA-256 of them all; context: bytes of a sequence.

    backwards: the rows of a batch stand in reverse order. Sums over them round differently, and nothing else changes.
    """

    train: Tensor
    held_out: Tensor
    fingerprint: str
    context: int
    backwards: bool = False

    def batch(self, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a step, int64 [BATCH, context]: a pure function of (seed, step)."""
        # Hashed, because torch's generator looks at the lowest 32 bits of its seed alone.
        mixed = hashlib.sha256(f"{seed},{step}".encode()).digest()[:4]
        generator = torch.Generator().manual_seed(int.from_bytes(mixed, "big"))
        starts = torch.randint(len(self.train) - self.context, (BATCH,), generator=generator)
        return _cut(self.train, starts.flip(0) if self.backwards else starts, self.context)

    def held_out_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """HELD_OUT_BATCHES pairs as `batch` gives, spread evenly over the held-out bytes."""
        starts = torch.linspace(0, len(self.held_out) - self.context - 1, BATCH * HELD_OUT_BATCHES).long()
        return (_cut(self.held_out, part, self.context) for part in starts.view(-1, BATCH))


def load_text(path: str | None, context: int, *, backwards: bool = False) -> Text:
    """Read a file, all text files below a folder, or (None) the Python standard library's own .py files.

    backwards: as for `Text`. Files are joined in the order of their names' hashes, so that a cut at MOST_BYTES is a fair sample.
    Raises ValueError when the path is missing or holds too few bytes for one batch.
    """
    raw = _read(path)
    border = len(raw) - max(int(len(raw) * HELD_OUT), context + 1)
    if border < BATCH * context + 1:
        least = BATCH * context + context + 2
        name = path or "of the standard library"
        raise ValueError(f"--text {name} holds {len(raw)} bytes; one batch needs at least {least}: give a longer text")
    data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return Text(data[:border], data[border:], hashlib.sha256(raw).hexdigest(), context, backwards)


def _read(path: str | None) -> bytes:
    root = Path(path) if path is not None else Path(sysconfig.get_paths()["stdlib"])
    if not root.exists():
        raise ValueError(f"--text {root} does not exist: give a file or a folder, or leave --text out")
    if root.is_file():
        with root.open("rb") as file:
            return file.read(MOST_BYTES)
    below = (p.relative_to(root) for p in root.rglob("*.py" if path is None else "*"))
    names = [p.as_posix() for p in below if not _SKIPPED & set(p.parts)]
    joined = bytearray()
    for name in sorted(names, key=lambda name: hashlib.sha256(os.fsencode(name)).digest()):
        if len(joined) >= MOST_BYTES:
            break
        if (root / name).is_file():
            with (root / name).open("rb") as file:
                content = file.read(MOST_BYTES)
            joined += content if b"\0" not in content[:8192] else b""  # a zero byte: not a text
    return bytes(joined[:MOST_BYTES])


def _cut(data: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    windows = data[starts[:, None] + torch.arange(context + 1)].long()
    return windows[:, :-1], windows[:, 1:]
