"""One process of the suite: run a part of it, on one rank, and write a line of JSON a case."""

import argparse
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from . import PARTS
from .single import Case
from .trace import Trace, digest, gathered


def cases_of(part: str) -> Iterator[tuple[str, Case]]:
    if part in ("single", "triton"):
        from . import single

        yield from single.cases() if part == "single" else single.triton_cases()
    elif part == "zero":
        from . import zero

        yield from zero.cases()
    else:
        from . import ranks

        for name, case in ranks.cases():
            yield (name if name.startswith(("save/", "load/")) else f"{part}/{name}"), case


def tags_of(name: str) -> list[str]:
    from . import zero

    return zero.tags(name)


def check_package(package: Path) -> None:
    """Raise RuntimeError when the imported package is not the one that is to be recorded."""
    import dadapt_dist

    found = Path(dadapt_dist.__file__).resolve()
    if not found.is_relative_to(package.resolve()):
        raise RuntimeError(f"dadapt_dist came from {found}, not from {package}")


def run(name: str, case: Case, folder: str, source: str, ranks: int) -> dict[str, object]:
    """Run a case. In one process an error is a result; among ranks it ends the part, since the others wait."""
    trace = Trace(name, folder, source, tags_of(name))
    try:
        torch.manual_seed(0)
        case(trace)
        return trace.result()
    except Exception as error:
        if ranks > 1:
            raise
        traceback.print_exc()
        return {"tags": trace.tags, "error": f"{type(error).__name__}: {error}"}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("part", "package", "out", "folder", "source", "only"):
        parser.add_argument(name)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    check_package(Path(given.package))
    ranks, rank = PARTS[given.part], int(os.environ["RANK"])
    if ranks > 1:
        store = dist.FileStore(os.environ["REPLAY_STORE"], ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    with open(f"{given.out}.{rank}", "w") as out:
        for name, case in cases_of(given.part):
            if given.only in name:
                began = time.monotonic()
                try:
                    result = run(name, case, given.folder, given.source, ranks)
                except Exception:
                    sys.stderr.write(f"\nin {name}, rank {rank}:\n")
                    raise
                result["seconds"] = round(time.monotonic() - began, 3)
                out.write(json.dumps({"name": name, **result}) + "\n")
                out.flush()
    gathered(digest([]))  # nobody leaves while another still talks to it
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # threads of many process groups: do not wait for them


if __name__ == "__main__":
    main()
