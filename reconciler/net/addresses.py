"""Which IP addresses a download may connect to: public ones, unless the setting allows private networks.

The check runs on the resolved address, just before the connection, so a DNS name cannot lead elsewhere afterwards.
`http_clients.py` gives these socket factories to its sessions; `media` and `doctor` check literal addresses.
"""

import errno
import ipaddress
import socket

from aiohappyeyeballs import AddrInfoType

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Metadata services at addresses that look public: Oracle's block counts as global in Python 3.11, Azure's address is.
_METADATA = (ipaddress.ip_network("192.0.0.0/24"), ipaddress.ip_network("168.63.129.16/32"))


class AddressRefused(OSError):
    """The name resolved to an address that is not public; raised before anything is sent there."""

    def __init__(self) -> None:
        # Every address gets the same text: the connector keeps the error's type only when all texts are equal.
        super().__init__(errno.EACCES, "the address is not public")


def is_public(address: str) -> bool:
    """Return whether this text is an IP address of the public internet; False for text that is no IP address.

    An IPv4 address wrapped in IPv6 (mapped, NAT64, 6to4) is judged by the IPv4 address.
    """
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.is_site_local:
            return False
        ip = _unwrapped(ip)
    internal = ip.is_private or ip.is_multicast or ip.is_reserved or any(ip in block for block in _METADATA)
    return ip.is_global and not internal


def any_socket(address: AddrInfoType) -> socket.socket:
    """Return a socket for this resolved address."""
    family, kind, protocol, _, _ = address
    return socket.socket(family=family, type=kind, proto=protocol)


def public_socket(address: AddrInfoType) -> socket.socket:
    """Return a socket for this resolved address; AddressRefused where it is not public."""
    if not is_public(str(address[4][0])):
        raise AddressRefused
    return any_socket(address)


def _unwrapped(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    if ip.sixtofour is not None:
        return ip.sixtofour
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    return ip
