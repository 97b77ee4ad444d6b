"""Define the version of Bulkhead, and the versions of the protocol between supervisor and worker."""

BULKHEAD_VERSION = "0.1.0"

# Increase it when a message changes its meaning; a new optional field needs no new version.
WIRE_VERSION = 1

# The versions of a peer that this code supports.
SPEAKABLE = frozenset({1})


def is_speakable(peer_version: int) -> bool:
    """Return whether this code supports a peer with this version."""
    return peer_version in SPEAKABLE
