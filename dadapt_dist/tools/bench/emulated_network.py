"""Emulate distant hosts on one machine with a user-space switch that delays frames.

Every emulated host is a network namespace with one tap device; the switch reads each frame and hands it on after the
delay. It needs root, /dev/net/tun and the commands `unshare`, `nsenter` and `ip` (Linux).
"""

import contextlib
import fcntl
import heapq
import os
import selectors
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
BROADCAST_BIT = 1


class NetworkError(RuntimeError):
    """This machine cannot emulate a network."""


def why_not() -> str | None:
    """Why no network can be emulated here; None where it can."""
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing:
        return f"the commands {', '.join(missing)} are missing"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun is not there or not open to this user"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "network namespaces are not allowed to this user"


class Network:
    """`hosts` emulated hosts 10.77.0.1, 10.77.0.2, ... with `delay` seconds from one to another, one way."""

    def __init__(self, hosts: int, delay: float) -> None:
        self.delay = delay
        self.addresses = [f"10.77.0.{index + 1}" for index in range(hosts)]
        self._holders: list[subprocess.Popen[bytes]] = []
        self._taps: list[int] = []
        self._stop = threading.Event()
        self._switch = threading.Thread(target=self._forward, daemon=True)

    def __enter__(self) -> "Network":
        try:
            for index, address in enumerate(self.addresses):
                self._add(index, address)
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            raise NetworkError(f"no network could be emulated: {error}") from error
        self._switch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def inside(self, host: int) -> list[str]:
        """What to put before a command that shall run on a host."""
        return ["nsenter", "-t", str(self._holders[host].pid), "-n"]

    def close(self) -> None:
        self._stop.set()
        if self._switch.is_alive():
            self._switch.join()
        for holder in self._holders:
            with holder:
                holder.kill()
        for tap in self._taps:
            os.close(tap)

    def _add(self, index: int, address: str) -> None:
        # It ends with its standard input: also when this process is killed.
        command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._holders.append(holder)
        assert holder.stdout is not None
        holder.stdout.readline()  # the namespace is there
        holder.stdout.close()
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self._taps.append(tap)
        name = f"dd{os.getpid() % 100000}x{index}"
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI))
        here = ["nsenter", "-t", str(holder.pid), "-n"]
        for line in (
            ["ip", "link", "set", name, "netns", str(holder.pid)],
            [*here, "ip", "link", "set", name, "name", "eth0"],
            [*here, "ip", "addr", "add", f"{address}/24", "dev", "eth0"],
            [*here, "ip", "link", "set", "eth0", "up"],
            [*here, "ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(line, check=True, capture_output=True)

    def _forward(self) -> None:
        """Hand every frame on when its time has come, to the host that owns its address, or to all."""
        owner: dict[bytes, int] = {}
        waiting: list[tuple[float, int, int, bytes]] = []
        number = 0
        with selectors.DefaultSelector() as ready:
            for tap in self._taps:
                ready.register(tap, selectors.EVENT_READ)
            while not self._stop.is_set():
                until = waiting[0][0] - time.monotonic() if waiting else 0.1
                for key, _ in ready.select(max(0.0, min(until, 0.1))):
                    for frame in _frames(key.fd):
                        owner[frame[6:12]] = key.fd
                        known = owner.get(frame[:6]) if not frame[0] & BROADCAST_BIT else None
                        for tap in [known] if known is not None else [t for t in self._taps if t != key.fd]:
                            number += 1
                            heapq.heappush(waiting, (time.monotonic() + self.delay, number, tap, frame))
                while waiting and waiting[0][0] <= time.monotonic():
                    _, _, tap, frame = heapq.heappop(waiting)
                    with contextlib.suppress(OSError):  # a full queue drops, as networks do
                        os.write(tap, frame)


def _frames(tap: int) -> Iterator[bytes]:
    with contextlib.suppress(BlockingIOError):
        for _ in range(64):
            yield os.read(tap, 65536)
