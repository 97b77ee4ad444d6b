"""Define the exit codes of a worker process, and the reason that each one stands for."""

EXIT_CLEAN = 0
EXIT_USAGE = 2
EXIT_LOCKED = 10  # another process owns the data directory (D08)
EXIT_STORAGE = 11  # the file cannot be opened, or writing it failed: recovery from the file is next
EXIT_SCHEMA = 12  # a newer schema than this code knows; the file is untouched
EXIT_DIRECTORY = 13  # the workspace's directory is gone or unreadable
EXIT_LEFT = 14  # shutdown overran its budget; the rest is recovery's
EXIT_CORRUPT = 15  # the file is damaged; it is untouched (D04)
EXIT_NO_LOCKS = 16  # the file system of the data directory knows no locks (D11)
EXIT_REASONS = {
    EXIT_LOCKED: "data directory is owned by another process",
    EXIT_STORAGE: "storage failed",
    EXIT_SCHEMA: "database has a newer schema",
    EXIT_DIRECTORY: "directory missing",
    EXIT_LEFT: "shutdown overran its budget",
    EXIT_CORRUPT: "corrupt",
    EXIT_NO_LOCKS: "data directory cannot be locked",
}
"""Exit codes of a worker that mean something, and the reason they give."""
HOPELESS = frozenset(EXIT_REASONS[code] for code in (EXIT_SCHEMA, EXIT_CORRUPT, EXIT_NO_LOCKS))
"""Reasons that another worker would find again: none is started until somebody asks for it."""
