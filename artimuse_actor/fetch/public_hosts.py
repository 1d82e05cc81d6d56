"""Check that an address is public, at the moment a connection to it is made.

A manifest is data from elsewhere: its http uris must not reach what only this machine or network can, such as the
credentials that a cloud serves at 169.254.169.254. Checking the name is not enough (`http://2130706433/`), nor is
resolving it first and connecting later: the second answer may differ. So the check is made where the socket is made,
which redirects, literal addresses and every resolver pass through.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from aiohttp import AddrInfoType

_GLOBAL_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
# Addresses that count as public and are answered by the cloud around a machine: Azure's and Oracle's metadata.
_OF_CLOUDS: Final = (ipaddress.IPv4Network("168.63.129.16/32"), ipaddress.IPv4Network("192.0.0.0/24"))
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class NotPublic(OSError):  # noqa: N818 (aiohttp tries a host's next address after an OSError)
    """An address that nobody else could reach."""


def is_public(address: str) -> bool:
    """True if a numeric IPv4 or IPv6 address is on the public internet."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return ip.is_global and not ip.is_multicast and not any(ip in network for network in _OF_CLOUDS)
    # Three ways to write an IPv4 address as an IPv6 one, which leads to the former.
    inner = ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
    if inner is not None:
        return is_public(str(inner))
    return ip.is_global and ip in _GLOBAL_UNICAST


def public_socket(address: AddrInfoType) -> socket.socket:
    """A socket for a connection to an address, as aiohttp's `socket_factory`; raises NotPublic."""
    family, kind, protocol, _, (host, *_) = address
    if not is_public(str(host)):
        raise NotPublic("not a public address")  # always the same words: only then aiohttp passes on the type
    return socket.socket(family, kind, protocol)
