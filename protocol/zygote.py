"""The conversation between a supervisor and the zygote, on a SEQPACKET socket: one JSON packet a message.

Any number of supervisors may connect, one after the other or at once. To each new connection the zygote first says
`ZygoteHello` with the children it has, first those that died and are not yet forgotten, so that a new supervisor
misses no exit.
"""

import msgspec

PACKET_MAX_BYTES = 64 * 1024


class Packet(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", omit_defaults=True):
    """What all packets share."""


class ForkedChild(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A child of the zygote. `status` is the raw wait status, None while it lives."""

    pid: int
    start_ticks: int
    status: int | None = None
    max_rss_bytes: int = 0


class Fork(Packet, frozen=True, kw_only=True, tag="fork"):
    """Fork a worker. The packet carries one descriptor: the memory file with the WorkerSpec."""

    request_id: str


class Forget(Packet, frozen=True, kw_only=True, tag="forget"):
    """This exit was noted; the zygote need not tell it again."""

    pid: int
    start_ticks: int


class Quit(Packet, frozen=True, kw_only=True, tag="quit"):
    """End the zygote as soon as no child lives; a Fork that comes before takes this back."""


class ZygoteHello(Packet, frozen=True, kw_only=True, tag="hello"):
    """First packet on every connection, sent once all imports are done."""

    pid: int
    code_version: str
    children: list[ForkedChild]


class Forked(Packet, frozen=True, kw_only=True, tag="forked"):
    """The answer to Fork: a process, or why there is none."""

    request_id: str
    pid: int = 0
    start_ticks: int = 0
    error: str = ""


class Exited(Packet, frozen=True, kw_only=True, tag="exited"):
    """A child ended (sent to every connection)."""

    child: ForkedChild


ToZygote = Fork | Forget | Quit
FromZygote = ZygoteHello | Forked | Exited

_encoder = msgspec.json.Encoder()
_to_zygote: msgspec.json.Decoder[ToZygote] = msgspec.json.Decoder(ToZygote)
_from_zygote: msgspec.json.Decoder[FromZygote] = msgspec.json.Decoder(FromZygote)


def encode_packet(packet: ToZygote | FromZygote) -> bytes:
    """The bytes of one packet."""
    return _encoder.encode(packet)


def decode_to_zygote(data: bytes) -> ToZygote:
    """What a supervisor sent. Raises msgspec.MsgspecError."""
    return _to_zygote.decode(data)


def decode_from_zygote(data: bytes) -> FromZygote:
    """What the zygote sent. Raises msgspec.MsgspecError."""
    return _from_zygote.decode(data)
