"""Define the messages between a supervisor and the zygote: one JSON packet each, on a SEQPACKET socket.

Several supervisors may connect, in turn or at once. On each new connection the zygote first sends `ZygoteHello` with
its children, including dead ones whose exit was not confirmed by `Forget`, so that a new supervisor misses no exit.
"""

import msgspec

PACKET_MAX_BYTES = 64 * 1024


class Packet(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", omit_defaults=True):
    """The base of all packets."""


class ForkedChild(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A child of the zygote. `status` is the raw wait status, None while it is alive."""

    pid: int
    start_ticks: int
    status: int | None = None
    max_rss_bytes: int = 0


class Fork(Packet, frozen=True, kw_only=True, tag="fork"):
    """Fork a worker. The packet carries one file descriptor: the memory file with the WorkerSpec."""

    request_id: str


class Forget(Packet, frozen=True, kw_only=True, tag="forget"):
    """The supervisor has recorded this exit; the zygote need not report it again."""

    pid: int
    start_ticks: int


class Quit(Packet, frozen=True, kw_only=True, tag="quit"):
    """End the zygote as soon as it has no live child; an earlier Fork cancels this."""


class ZygoteHello(Packet, frozen=True, kw_only=True, tag="hello"):
    """The first packet on every connection, sent once all imports are done."""

    pid: int
    code_version: str
    children: list[ForkedChild]


class Forked(Packet, frozen=True, kw_only=True, tag="forked"):
    """The response to Fork: the new process, or the error."""

    request_id: str
    pid: int = 0
    start_ticks: int = 0
    error: str = ""


class Exited(Packet, frozen=True, kw_only=True, tag="exited"):
    """A child has ended; sent to every connection."""

    child: ForkedChild


ToZygote = Fork | Forget | Quit
FromZygote = ZygoteHello | Forked | Exited

_encoder = msgspec.json.Encoder()
_to_zygote: msgspec.json.Decoder[ToZygote] = msgspec.json.Decoder(ToZygote)
_from_zygote: msgspec.json.Decoder[FromZygote] = msgspec.json.Decoder(FromZygote)


def encode_packet(packet: ToZygote | FromZygote) -> bytes:
    """Encode one packet."""
    return _encoder.encode(packet)


def decode_to_zygote(data: bytes) -> ToZygote:
    """Decode a packet sent by a supervisor. Raises msgspec.MsgspecError."""
    return _to_zygote.decode(data)


def decode_from_zygote(data: bytes) -> FromZygote:
    """Decode a packet sent by the zygote. Raises msgspec.MsgspecError."""
    return _from_zygote.decode(data)
