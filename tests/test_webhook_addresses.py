"""Addresses that webhooks may and may not use, however they are written."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from shared.webhook_addresses import AddressPolicy, RefusedAddressError, read_networks, read_ports

STRICT = AddressPolicy(ports=read_ports("80,443,1024-65535"))
INTERNAL = AddressPolicy(
    read_networks("10.0.0.0/8,127.0.0.0/8,::1/128,fd00::/8"), read_ports("80,443,1024-65535")
)
WIDE_OPEN = AddressPolicy(read_networks("0.0.0.0/0,::/0"), plain_http="always")


@pytest.mark.parametrize(
    "url",
    [
        "https://orders.example/changes",
        "https://orders.example",
        "https://orders.example:8443/a?b=c&d=%20",
        "https://xn--bcher-kva.example/",
        "http://orders_receiver:9000/hook",
        "HTTPS://Orders.Example/",
        "https://1.1.1.1/",
        "https://[2606:4700:4700::1111]/",
        "https://a.b/@x",
    ],
)
def test_ordinary_webhook_urls_are_accepted(url: str) -> None:
    """As a subscriber would write them."""
    STRICT.read_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "orders.example",
        "//orders.example/",
        "https:orders.example",
        "https:/orders.example",
        "https:///changes",
        "ftp://orders.example/",
        "file:///etc/passwd",
        "gopher://orders.example/",
        "https://user@orders.example/",
        "https://user:password@orders.example/",
        "https://orders.example@10.0.0.1/",
        "https://@orders.example/",
        "https://orders.example/#fragment",
        "https://orders.example/#",
        "https://orders.example\\@10.0.0.1/",
        "https://orders.example\\.evil.example/",
        "https://orders.example/\tchanges",
        "https://orders.example/\r\nHost: evil",
        " https://orders.example/",
        "https://orders.example/ä",
        "https://ordérs.example/",
        "https://①②⑦.0.0.1/",
        "https://orders%2eexample/",
        "https://orders..example/",
        "https://-orders.example/",
        "https://orders.example.:443:80/",
        "https://orders.example:0/",
        "https://orders.example:22/",
        "https://orders.example:70000/",
        "https://orders.example:8x/",
        "https://[::1/",
        "https://[orders.example]/",
        "https://[fe80::1%25eth0]/",
        "https://[v1.x]/",
        "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 130 + "example/",
        "https://orders.example/" + "a" * 2_000,
    ],
)
def test_an_unsuitable_webhook_url_is_refused(url: str) -> None:
    """Another scheme, a user, or a form that parsers read differently."""
    with pytest.raises(RefusedAddressError):
        INTERNAL.read_url(url)


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",  # 127.0.0.1 in decimal
        "017700000001",  # in octal
        "0x7f000001",  # in hexadecimal
        "0x7F.1",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.0x1",
        "127.0.0.1.",
        "256.1.1.1",
        "1.2.3.4.5",
        "orders.0x1",
        "orders.1",
        "4294967297",
    ],
)
def test_host_names_that_a_resolver_may_read_as_an_address_are_refused(host: str) -> None:
    """They are refused even if that address would be allowed."""
    with pytest.raises(RefusedAddressError):
        WIDE_OPEN.read_url(f"https://{host}/")


NEVER = [
    "0.0.0.0",
    "0.1.2.3",
    "169.254.0.1",
    "169.254.169.254",  # Amazon, Azure, Google, …
    "169.254.170.2",  # Amazon's containers
    "100.100.100.200",  # Alibaba
    "168.63.129.16",  # Azure
    "192.0.0.192",  # Oracle
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "fe80::1",
    "fe80::a9fe:a9fe%1",
    "febf::1",
    "ff02::1",
    "fd00:ec2::254",  # Amazon
    "fd20:ce::254",  # Google
    "fd00:42::42",  # Scaleway
    "::ffff:169.254.169.254",
    "::ffff:0.0.0.0",
    "::169.254.169.254",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::169.254.169.254",
    "2002:a9fe:a9fe::1",
    "2001:0:a9fe:a9fe::1",
]
PRIVATE = [
    "10.0.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "::1",
    "fd12:3456::1",
    "fec0::1",
    "2001:db8::1",
    "::ffff:10.0.0.1",
    "::ffff:127.0.0.1",
    "64:ff9b::10.0.0.1",
]


@pytest.mark.parametrize("address", NEVER)
def test_link_local_metadata_and_multicast_addresses_are_always_refused(address: str) -> None:
    """Even with every network in OMS_WEBHOOK_NETWORKS."""
    with pytest.raises(RefusedAddressError):
        WIDE_OPEN.check(ip_address(address), "https")


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_refused_unless_their_network_is_allowed(address: str) -> None:
    """Every notation of a private address is tried."""
    with pytest.raises(RefusedAddressError):
        STRICT.check(ip_address(address), "https")
    WIDE_OPEN.check(ip_address(address), "https")


def test_an_ipv4_address_written_as_ipv6_is_checked_and_used_as_ipv4() -> None:
    """The address that was checked is the one that is connected to."""
    assert INTERNAL.check(ip_address("::ffff:10.1.2.3"), "http") == ip_address("10.1.2.3")
    with pytest.raises(RefusedAddressError):
        INTERNAL.check(ip_address("::ffff:192.168.0.1"), "http")


def test_plain_http_is_accepted_for_allowed_networks_only() -> None:
    """By default, unencrypted requests do not leave these networks."""
    INTERNAL.check(ip_address("10.0.0.1"), "http")
    INTERNAL.check(ip_address("1.1.1.1"), "https")
    with pytest.raises(RefusedAddressError):
        INTERNAL.check(ip_address("1.1.1.1"), "http")
    AddressPolicy(plain_http="always").check(ip_address("1.1.1.1"), "http")
    with pytest.raises(RefusedAddressError):
        AddressPolicy(read_networks("10.0.0.0/8"), plain_http="never").read_url("http://10.0.0.1/")


@pytest.mark.parametrize("text", ["", "0", "70000", "9-1", "x", "1-2-3", "80,,90", "-5"])
def test_the_service_does_not_start_with_invalid_webhook_ports(text: str) -> None:
    """The error states which values are valid."""
    with pytest.raises(ValueError, match="must be ports"):
        read_ports(text)
