"""The wire versions that we speak between supervisor and worker, and who understands whom."""

BULKHEAD_VERSION = "0.1.0"

# Raise it when a message changes its meaning; a new optional field does not count.
WIRE_VERSION = 1

# Versions of a peer that this code can still talk to.
SPEAKABLE = frozenset({1})


def is_speakable(peer_version: int) -> bool:
    """May we go on talking to a peer that announced this version?"""
    return peer_version in SPEAKABLE
