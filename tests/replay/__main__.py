"""The command line: `python -m tests.replay record | compare | check | checkpoints`."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from . import PARTS
from .comparing import Record, report

HERE = Path(__file__).resolve().parents[1]  # the folder of tests
LIMIT = 400.0


def environment(stage: Path, part: str, rank: int, store: Path) -> dict[str, str]:
    """One thread, products that do not depend on where memory lies, and no package but the staged one."""
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TRITON_INTERPRET")}
    ranks = str(PARTS.get(part, 1))
    env |= {
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MKL_CBWR": "COMPATIBLE", "PYTHONPATH": str(stage),
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "REPLAY_STORE": str(store), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    return env | ({"TRITON_INTERPRET": "1"} if part == "triton" else {})


def staged(package: Path, folder: Path) -> Path:
    """A folder in which `tests` is this suite and `dadapt_dist` the package of the checkout that is to be recorded."""
    if not (package / "dadapt_dist").is_dir():
        raise SystemExit(f"{package} has no folder dadapt_dist: give the root of a checkout")
    stage = folder / "stage"
    (stage / "tests").mkdir(parents=True)
    (stage / "tests" / "__init__.py").touch()
    (stage / "tests" / HERE.joinpath("replay").name).symlink_to(HERE / "replay")
    (stage / "dadapt_dist").symlink_to((package / "dadapt_dist").resolve())
    return stage


def run_part(part: str, stage: Path, folder: Path, arguments: list[str]) -> Record:
    """Run the ranks of a part and read what the first has written. A rank that fails ends the others."""
    out, store = folder / f"{part}.jsonl".replace(" ", "_"), folder / f"store_{part}".replace(" ", "_")
    logs = [folder / f"{part}.{rank}.log".replace(" ", "_") for rank in range(PARTS[part])]
    line = [sys.executable, "-m", "tests.replay.child", part, arguments[0], str(out), *arguments[1:]]
    running = []
    for rank, log in enumerate(logs):
        with log.open("w") as stream:
            env = environment(stage, part, rank, store)
            running.append(subprocess.Popen(line, cwd=stage, env=env, stdout=stream, stderr=stream))
    deadline = time.monotonic() + LIMIT
    try:
        while any(one.poll() is None for one in running) and not any(one.poll() for one in running):
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        time.sleep(0.0 if all(one.poll() == 0 for one in running) else 1.0)
    finally:
        for one in running:
            if one.poll() is None:
                one.kill()
        codes = [one.wait() for one in running]
    found = {}
    written = Path(f"{out}.0")
    for text in written.read_text().splitlines() if written.exists() else ():
        row = json.loads(text)
        found[row.pop("name")] = row
    if any(codes):
        say(f"{part}: ranks ended with {codes} after {len(found)} cases")
        for log in logs:
            say(f"--- {log.name}: {log.read_text()[-2500:]}")
        found[f"{part}: runs to its end"] = {"tags": [], "error": f"ranks ended with {codes}"}
    return found


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def record(package: Path, out: Path, source: Path | None, only: str, parts: list[str]) -> Record:
    """Run the suite, write `out`, and return it."""
    checkpoints = Path(f"{out}.checkpoints").resolve()
    shutil.rmtree(checkpoints, ignore_errors=True)
    checkpoints.mkdir(parents=True)
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="replay") as temporary:
        stage = staged(package.resolve(), Path(temporary))
        for part in parts:
            began = time.monotonic()
            arguments = [str(package.resolve()), str(checkpoints), str((source or checkpoints).resolve()), only]
            found = run_part(part, stage, Path(temporary), arguments)
            cases |= found
            say(f"{part}: {len(found)} cases in {time.monotonic() - began:.0f} s")
    look_at_loads(cases)
    errors = {name: case["error"] for name, case in cases.items() if "error" in case}
    for name, error in errors.items():
        say(f"{name}: {error}")
    stopped = [name for name, case in cases.items() if case.get("continues") is False]
    for name in stopped:
        say(f"{name}: does not continue as the run that saved it went on")
    written = {"python": platform.python_version(), "machine": platform.machine(), "cases": cases}
    out.write_text(json.dumps(written, indent=0, sort_keys=True))
    say(f"{len(cases)} cases, {len(errors)} errors -> {out}")
    return written


def look_at_loads(cases: Record) -> None:
    """Note in each case load/X whether it went on as save/X did without a stop, where both ran under one layout."""
    for name, case in cases.items():
        whole = cases.get(name.replace("load/", "save/", 1), {})
        if name.startswith("load/") and case.get("params") and whole.get("params"):
            case["continues"] = case["params"] == whole["params"][-len(case["params"]) :]


def compare(before: Record, after: Record, expected: list[str]) -> int:
    lines, wrong = report(before, after, expected)
    for line in lines:
        say(line)
    return int(wrong > 0)


def write_checkpoints(package: Path, folder: Path) -> int:
    """Write the committed checkpoints and the values they lead to."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="replay") as temporary:
        stage = staged(package.resolve(), Path(temporary))
        env = environment(stage, "", 0, Path(temporary) / "store")
        line = [sys.executable, "-m", "tests.replay.recorded", str(folder)]
        return subprocess.run(line, cwd=stage, env=env, check=False).returncode


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.replay", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("record", "check", "checkpoints", "compare"):
        one = commands.add_parser(name)
        if name in ("record", "checkpoints"):
            one.add_argument("--package", type=Path, required=True, help="the checkout whose package is run")
            one.add_argument("out", type=Path, metavar="OUT")
        if name == "record":
            one.add_argument("--load", type=Path, help="checkpoints of another recording, for the cases load/...")
        if name == "compare":
            one.add_argument("before", type=Path, metavar="A")
            one.add_argument("after", type=Path, metavar="B")
        if name == "check":
            one.add_argument("--before", type=Path, required=True, help="the checkout to compare with")
        if name in ("record", "check"):
            one.add_argument("--only", default="", help="run the cases with this text in their name")
            one.add_argument("--part", action="append", choices=PARTS, help="run this part; may be given several times")
        if name in ("compare", "check"):
            one.add_argument("--expected", action="append", default=[], metavar="TAG", help="list these apart")
    return parser.parse_args()


def main() -> int:
    given = arguments()
    if given.command == "checkpoints":
        return write_checkpoints(given.package, given.out)
    if given.command == "compare":
        return compare(*(json.loads(path.read_text()) for path in (given.before, given.after)), given.expected)
    parts = given.part or [*PARTS]
    if given.command == "record":
        written = record(given.package, given.out, given.load, given.only, parts)
        return int(any("error" in case or case.get("continues") is False for case in written["cases"].values()))
    with tempfile.TemporaryDirectory(prefix="replay") as folder:
        old = Path(folder) / "before.json"
        before = record(given.before, old, None, given.only, parts)
        after = record(HERE.parent, Path(folder) / "after.json", Path(f"{old}.checkpoints"), given.only, parts)
        return compare(before, after, given.expected)


if __name__ == "__main__":
    sys.exit(main())
