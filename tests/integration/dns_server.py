"""A name server on a UDP port of this machine; what a name stands for may change at any time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from dnslib.server import BaseResolver, DNSLogger, DNSServer

if TYPE_CHECKING:
    from collections.abc import Iterator


class NameServer(BaseResolver):
    """Knows one name.

    Attributes
    ----------
    addresses : IPv4 addresses that `NAME` stands for.
    is_gone : True has it answer SERVFAIL, as a resolver does that reaches nobody.
    asked, refused : how often for these, and how often that was answered so.
    address : ``127.0.0.1:PORT`` on which it listens.
    """

    NAME = "triton.test"

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)
        self.is_gone = False
        self.asked = self.refused = 0
        self.address = ""

    def endpoint(self, port: int) -> str:
        return f"dns://{self.address}/{self.NAME}:{port}"

    def resolve(self, request: DNSRecord, handler: object) -> DNSRecord:
        reply, question = request.reply(), request.q
        if str(question.qname).rstrip(".") != self.NAME:
            reply.header.rcode = RCODE.NXDOMAIN
        elif self.is_gone:
            self.refused += 1
            reply.header.rcode = RCODE.SERVFAIL
        elif question.qtype == QTYPE.A:
            self.asked += 1
            for address in self.addresses:
                reply.add_answer(RR(question.qname, QTYPE.A, ttl=0, rdata=A(address)))
        return reply


@contextlib.contextmanager
def name_server(*addresses: str) -> Iterator[NameServer]:
    names = NameServer(*addresses)
    server = DNSServer(names, address="127.0.0.1", port=0, logger=DNSLogger("-request,-reply"))
    host, port = server.server.server_address
    names.address = f"{host}:{port}"
    server.start_thread()
    try:
        yield names
    finally:
        server.stop()
        server.server.server_close()
        server.thread.join()
