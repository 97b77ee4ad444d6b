"""Define the exit codes of a worker process, and the reason that each one stands for."""

EXIT_CLEAN = 0
EXIT_USAGE = 2
EXIT_LOCKED = 10  # another process owns the data directory
EXIT_STORAGE = 11  # the database cannot be opened or a write failed; the next worker recovers from the file
EXIT_SCHEMA = 12  # the database has a newer schema than this code; it is not changed
EXIT_DIRECTORY = 13  # the workspace's directory is missing or unreadable
EXIT_LEFT = 14  # the shutdown exceeded its time budget; recovery ends the remaining runs
EXIT_CORRUPT = 15  # the database is damaged; it is not changed
EXIT_NO_LOCKS = 16  # the file system of the data directory does not support locks
EXIT_REASONS = {
    EXIT_LOCKED: "data directory is owned by another process",
    EXIT_STORAGE: "storage failed",
    EXIT_SCHEMA: "database has a newer schema",
    EXIT_DIRECTORY: "directory missing",
    EXIT_LEFT: "shutdown overran its budget",
    EXIT_CORRUPT: "corrupt",
    EXIT_NO_LOCKS: "data directory cannot be locked",
}
"""The reason of each exit code that has one."""
HOPELESS = frozenset(EXIT_REASONS[code] for code in (EXIT_SCHEMA, EXIT_CORRUPT, EXIT_NO_LOCKS))
"""Reasons that would stop another worker too: none is started until a client requests a restart."""
