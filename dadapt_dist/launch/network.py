"""Find the addresses and network interfaces by which this machine reaches others."""

import logging
import socket
import struct
import sys
from collections.abc import MutableMapping
from pathlib import Path

logger = logging.getLogger(__name__)


def interfaces() -> dict[str, str]:
    """Map each IP address of this machine to its interface; empty on systems other than Linux."""
    if sys.platform != "linux":
        return {}
    import fcntl

    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
            except OSError:  # it has no IPv4 address
                continue
            found[socket.inet_ntoa(answer[20:24])] = name
    return found | _with_ipv6(Path("/proc/net/if_inet6"))


def _with_ipv6(table: Path) -> dict[str, str]:
    """Parse the kernel's table of IPv6 addresses (address, index, prefix, scope, flags, name)."""
    lines = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
    return {socket.inet_ntop(socket.AF_INET6, bytes.fromhex(line[0])): line[5] for line in lines}


def default_interface(table: Path = Path("/proc/net/route")) -> str | None:
    """Return the interface of the default route, or None."""
    lines = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
    return next((line[0] for line in lines if line[1] == line[7] == "00000000"), None)


def reaches(address: str, port: int, seconds: float = 3.0) -> bool:
    """Return whether a TCP connection to the address succeeds."""
    try:
        socket.create_connection((address, port), seconds).close()
    except (OSError, ValueError):
        return False
    return True


def own_address_towards(address: str) -> str | None:
    """Return the local address used to reach `address`, or None if the name cannot be resolved."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(address, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(place)  # sends nothing
            return str(probe.getsockname()[0])
    except (OSError, ValueError):
        return None


def name_interface(env: MutableMapping[str, str]) -> None:
    """Set GLOO_SOCKET_IFNAME, unless it is set, to the interface that reaches MASTER_ADDR.

    gloo binds to what the machine's own name resolves to, which is 127.0.1.1 on many systems and reaches nobody. Rank 0's
    machine may call itself by such an address: it takes its only interface, or that of its default route.
    """
    if "GLOO_SOCKET_IFNAME" in env:
        return
    own = own_address_towards(env["MASTER_ADDR"])
    known = {address: name for address, name in interfaces().items() if not is_loopback(address)}
    names = set(known.values())
    name = known.get(own or "")
    if name is None and own is not None and is_loopback(own):
        name = next(iter(names)) if len(names) == 1 else default_interface()
    if name in names:
        env["GLOO_SOCKET_IFNAME"] = str(name)
    elif names:
        logger.warning(
            "which of the interfaces %s reaches MASTER_ADDR=%s is not known: set GLOO_SOCKET_IFNAME if the ranks do not meet",
            ", ".join(sorted(names)), env["MASTER_ADDR"],
        )  # fmt: skip


def stay_inside(env: MutableMapping[str, str]) -> None:
    """Set GLOO_SOCKET_IFNAME, unless it is set, to the interface that no other machine reaches: gloo listens even alone."""
    name = interfaces().get("127.0.0.1")
    if name is not None:
        env.setdefault("GLOO_SOCKET_IFNAME", name)


def is_loopback(address: str) -> bool:
    """Return whether the address is a loopback address."""
    return address.startswith("127.") or address == "::1"
