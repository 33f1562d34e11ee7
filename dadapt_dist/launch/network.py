"""Which of this machine's addresses and interfaces reach another process?"""

import socket
import struct
import sys
from collections.abc import MutableMapping


def interfaces() -> dict[str, str]:
    """IPv4 address -> name of the interface that has it; empty where the system does not tell (other than Linux)."""
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
    return found


def reaches(address: str, port: int, seconds: float = 3.0) -> bool:
    """Does something answer there?"""
    try:
        socket.create_connection((address, port), seconds).close()
    except OSError:
        return False
    return True


def own_address_towards(address: str) -> str | None:
    """The address with which this machine would speak to another; None when the name is not known."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])


def name_interface(env: MutableMapping[str, str]) -> None:
    """Set GLOO_SOCKET_IFNAME, unless it is set, to the interface that reaches MASTER_ADDR.

    gloo binds to what the machine's own name resolves to, which is 127.0.1.1 on many systems and reaches nobody.
    """
    if "GLOO_SOCKET_IFNAME" in env:
        return
    own, known = own_address_towards(env["MASTER_ADDR"]), interfaces()
    if own in known and not own.startswith("127."):
        env["GLOO_SOCKET_IFNAME"] = known[own]
        return
    others = [name for address, name in known.items() if not address.startswith("127.")]
    if own is not None and len(others) == 1:  # rank 0's machine calls itself by a loopback address
        env["GLOO_SOCKET_IFNAME"] = others[0]
