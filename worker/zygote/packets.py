"""Define the packets between the zygote and its template processes: one JSON packet each, on a SEQPACKET socket pair.

The zygote sends `Fork` (of `protocol/zygote.py`), `MakeWarm` and `Pause`; a template sends `TemplateReady` and
`Forked`. A template exits when the zygote closes its end of the pair.
"""

import socket

import msgspec

from protocol.zygote import PACKET_MAX_BYTES, Fork, Forked, Packet

WARM = "warm"
"""The request id of the `Forked` that answers `MakeWarm`."""


class MakeWarm(Packet, frozen=True, kw_only=True, tag="make_warm"):
    """Fork another template that warms itself up. The packet carries the socket that it talks on."""


class Pause(Packet, frozen=True, kw_only=True, tag="pause"):
    """Do nothing for the next `seconds`, in a template that warms itself up; others ignore it."""

    seconds: float


class TemplateReady(Packet, frozen=True, kw_only=True, tag="template_ready"):
    """The template forks workers from now on. A warm one is sent by the template that `MakeWarm` asked for."""

    pid: int


ToTemplate = Fork | MakeWarm | Pause
FromTemplate = TemplateReady | Forked

_encoder = msgspec.json.Encoder()
_to_template: msgspec.json.Decoder[ToTemplate] = msgspec.json.Decoder(ToTemplate)
_from_template: msgspec.json.Decoder[FromTemplate] = msgspec.json.Decoder(FromTemplate)


def send(channel: socket.socket, packet: ToTemplate | FromTemplate, descriptors: list[int] | None = None) -> None:
    """Send one packet with descriptors. Raises OSError."""
    socket.send_fds(channel, [_encoder.encode(packet)], descriptors or [])


def decode_to_template(data: bytes) -> ToTemplate:
    """Decode a packet of the zygote. Raises msgspec.MsgspecError."""
    return _to_template.decode(data)


def decode_from_template(data: bytes) -> FromTemplate:
    """Decode a packet of a template. Raises msgspec.MsgspecError."""
    return _from_template.decode(data)


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Receive one packet and its descriptors; no bytes when the peer has closed. Raises OSError."""
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, PACKET_MAX_BYTES, 4)
    except ConnectionResetError:
        # The peer closed with unread data; the kernel reports that first, and then what the peer had sent before.
        data, descriptors, _, _ = socket.recv_fds(connection, PACKET_MAX_BYTES, 4)
    return data, descriptors
