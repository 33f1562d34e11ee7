"""Count the files of the package that a step, and the construction of an optimizer, enter: `python -m docs.measure_walks`.

A reader who follows a step has to open these files. Prints one line a trip: files, calls, and calls from one file into
another, on four plain tensors in one process.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import dadapt_dist

PACKAGE = str(Path(dadapt_dist.__file__).parent)


def walk(trip: Callable[[], Any]) -> tuple[list[str], int, int]:
    """(files entered, calls, calls from one file of the package into another) of one call of `trip`."""
    files: dict[str, int] = {}
    calls = crossings = 0

    def note(frame: FrameType, event: str, _: Any) -> None:
        nonlocal calls, crossings
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(PACKAGE):
            calls += 1
            files[name] = files.get(name, 0) + 1
            caller = frame.f_back.f_code.co_filename if frame.f_back is not None else ""
            crossings += caller.startswith(PACKAGE) and caller != name

    sys.setprofile(note)
    try:
        trip()
    finally:
        sys.setprofile(None)
    return sorted(str(Path(name).relative_to(PACKAGE)) for name in files), calls, crossings


def main() -> None:
    """Walk through construction, the first and a steady step, saving and loading."""
    params = [torch.nn.Parameter(torch.ones(4, 4)) for _ in range(4)]
    made: list[Any] = []
    trips: list[tuple[str, Callable[[], Any]]] = [
        ("construction", lambda: made.append(dadapt_dist.Prodigy(params))),
        ("first step", lambda: made[0].step()),
        ("second step", lambda: made[0].step()),
        ("third step", lambda: made[0].step()),
        ("steady step", lambda: made[0].step()),
        ("state_dict", lambda: made[0].state_dict()),
        ("load_state_dict", lambda: made[0].load_state_dict(made[1])),
    ]
    for name, trip in trips:
        for p in params:
            p.grad = torch.ones_like(p)
        if name == "load_state_dict":
            made.append(made[0].state_dict())
        files, calls, crossings = walk(trip)
        sys.stdout.write(f"{name:16} {len(files):3} files {calls:5} calls {crossings:5} crossings\n")
        if "-v" in sys.argv:
            sys.stdout.write("".join(f"    {file}\n" for file in files))


if __name__ == "__main__":
    main()
