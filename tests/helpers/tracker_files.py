"""Read a value back, by its steps, from the files that trackers write when they are offline."""

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dadapt_dist.monitor.event_files import EventLog

BLOCK, HEADER = 32768, 7


def tensorboard(folder: Path, name: str) -> dict[int, float]:
    """As `dadapt-dist watch` reads it: of the event files that have the name."""
    for place in sorted({path.parent for path in folder.rglob("events.out.tfevents*")}):
        log = EventLog(place)
        log.refresh()
        if found := log.columns.series.get(name):
            return {int(step): value for step, value in zip(found.steps, found.values, strict=True)}
    return {}


def mlflow(folder: Path, name: str) -> dict[int, float]:
    """Of a file store: a file for each metric, with lines of time, value and step."""
    (path,) = folder.rglob(f"metrics/{name}")
    words = [line.split() for line in path.read_text().splitlines()]
    return {int(step): float(value) for _, value, step in words}


def comet(folder: Path, name: str) -> dict[int, float]:
    """Of an offline archive."""
    (path,) = folder.rglob("*.zip")
    with zipfile.ZipFile(path) as archive:
        lines = archive.read("messages.json").decode().splitlines()
    metrics = [json.loads(line)["payload"].get("metric") for line in lines]
    return {m["step"]: m["metricValue"] for m in metrics if m and m["metricName"] == name}


def wandb(folder: Path, name: str) -> dict[int, float]:
    """Of an offline run: records of protocol buffers, in the blocks of LevelDB's logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.rglob("*.wandb")
    found = {}
    for step, content in enumerate(_records(path.read_bytes())):
        record: Any = Record()
        record.ParseFromString(content)
        items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        if name in items:
            found[int(items.get("_step", step))] = float(items[name])
    return found


def _records(content: bytes) -> Iterator[bytes]:
    at, whole = HEADER, b""
    while at + HEADER <= len(content):
        if (left := BLOCK - at % BLOCK) < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        whole += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


READERS = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow, "comet": comet}
