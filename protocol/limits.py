"""Define every limit and deadline that an operator may change, with its unit in its name and its reason beside it.

One frozen value is made at start and passed down; tests and operators replace single fields. The comments are also the
explanations in docs/server-settings.md; after a change run `make settings`.
"""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """All limits of one server. `_s` are seconds on the monotonic clock, `_bytes` bytes, `_max` counts."""

    # --- requests -----------------------------------------------------------------------------------------------
    body_max_bytes: int = 32 * 1024 * 1024  # a prompt with a few images; a larger body is answered with 413
    header_max_bytes: int = 64 * 1024  # all headers of one request; larger ones are answered with 431
    header_deadline_s: float = 10.0  # a client that sends its headers slowly holds a connection no longer
    body_deadline_s: float = 60.0  # a client that sends its body slowly holds a connection no longer
    idle_connection_s: float = 300.0  # without a request; clients keep theirs for 90 s and must close first
    call_deadline_s: float = 30.0  # for one request to a worker, unless its operation has a deadline of its own
    control_grace_s: float = 0.2  # lets the response to a shutdown request reach its client

    # --- messages between supervisor and worker -----------------------------------------------------------------
    message_max_bytes: int = 64 * 1024 * 1024  # above its own limit libzmq closes a link silently
    calls_in_flight_max: int = 512  # open requests to one worker
    event_window: int = 2048  # numbered events that a worker may send before the supervisor confirms any
    event_batch_max: int = 512  # events in one message
    event_batch_max_bytes: int = 1024 * 1024  # their data
    bad_messages_max: int = 16  # from one peer; then it is disconnected
    replies_kept: int = 1024  # responses that a worker remembers for repeated calls
    replies_kept_bytes: int = 16 * 1024 * 1024  # their bodies; what is reached first counts

    # --- the life of a worker -----------------------------------------------------------------------------------
    zygote_ready_s: float = 60.0  # for importing the agent's libraries from a slow, cold disk
    fork_deadline_s: float = 5.0  # a warm zygote forks within milliseconds; one that does not is replaced
    start_deadline_s: float = 20.0  # from a worker's fork to ready, recovery included
    heartbeat_interval_s: float = 0.5  # between two heartbeats that a worker is asked for
    heartbeat_idle_interval_s: float = 20.0  # the same while nothing runs; any message ends it
    heartbeat_lost_s: float = 5.0  # a worker whose loop sends no heartbeat for this time is killed and replaced
    restart_intensity: int = 3  # deaths within the period after which a worker is not restarted (Erlang's rule)
    restart_period_s: float = 60.0  # the period in which deaths are counted
    restart_delay_s: float = 0.0  # before the first replacement, which starts at once
    restart_delay_next_s: float = 0.25  # before the second replacement; each further one waits twice as long
    restart_delay_s_max: float = 10.0  # the longest delay, after several deaths
    restart_healthy_s: float = 600.0  # a worker that lived for this time resets the delay
    wake_deadline_s: float = 20.0  # how long a request waits for its worker to be ready
    kill_deadline_s: float = 2.0  # from SIGKILL until the whole process tree is reaped
    poison_deaths_max: int = 2  # a run whose start killed its worker this many times fails
    supervisor_lease_s: float = 60.0  # an idle worker without a supervisor exits after this time
    evict_idle_s: float = 60.0  # a workspace without clients and work for this time may be put to sleep
    evict_attached_idle_s: float = 900.0  # the same with clients; they stay, and the next request wakes it

    # --- shutdown: a budget for each stage, together below systemd's stop timeout --------------------------------
    drain_s: float = 5.0  # for runs to end after they are cancelled
    flush_s: float = 5.0  # for the last writes after that
    exit_s: float = 2.0  # from a worker's last message to the end of its process
    settle_s: float = 5.0  # for one write that continues in the background

    # --- storage ------------------------------------------------------------------------------------------------
    storage_busy_s: float = 5.0  # how long to wait while another process holds the write lock
    storage_job_s: float = 15.0  # for one job of the database; then its outcome is unknown and the worker ends itself
    storage_backlog_max: int = 4096  # jobs that wait for the database
    events_kept: int = 20_000  # in the event log of a workspace; older cursors get `reset`
    events_kept_bytes: int = 128 * 1024 * 1024  # their data; what is reached first counts
    lock_deadline_s: float = 1.0  # a second worker on a data directory is refused within this time

    # --- runs and messages --------------------------------------------------------------------------------------
    queued_prompts_max: int = 256  # prompts that wait in one session
    prompt_max_bytes: int = 16 * 1024 * 1024  # one prompt with its attachments
    snapshot_interval_s: float = 0.025  # between two events about growing messages; the first text is sent at once
    snapshot_bytes_per_s: int = 4_000_000  # a long message is sent whole less often: its cost would grow quadratically
    snapshot_store_s: float = 1.0  # between two writes of a growing message: a killed worker loses at most this much
    run_max_s: float = 24 * 3600.0  # one run, from its start to its end
    steps_max: int = 500  # model requests of one run
    tools_parallel_max: int = 5  # tool calls of one run that run at the same time
    history_max_messages: int = 20_000  # messages of a conversation that a model gets
    summary_clips_max: int = 6  # how often a conversation that is too long to summarise is halved
    permission_wait_s: float = 1800.0  # how long a request or question stays open while no client is there
    git_s: float = 3.0  # for reading the state of the worktree, for the system prompt
    title_s: float = 60.0  # for asking a model for a session's title

    # --- models -------------------------------------------------------------------------------------------------
    model_first_event_s: float = 120.0  # from a request to the first event of the response
    model_progress_s: float = 120.0  # between two events of a response; bytes that make no event do not count
    model_connect_s: float = 30.0  # for connecting to a provider
    model_retries_max: int = 3  # of one request that failed in a way that may pass
    model_retry_delay_s: float = 5.0  # before the first retry; doubles with each
    model_retry_delay_s_max: float = 60.0  # the longest delay between two retries

    # --- the local model's process ------------------------------------------------------------------------------
    local_model_start_s: float = 60.0  # until it is ready on a cold disk and a busy machine; warm in three seconds
    local_model_idle_s: float = 300.0  # its process ends after this time without requests, to free the memory
    local_model_lost_s: float = 15.0  # without a heartbeat until it is killed; it yields to all other processes
    local_model_leave_s: float = 30.0  # for finishing its responses after its supervisor has ended

    # --- tools --------------------------------------------------------------------------------------------------
    hook_s: float = 30.0  # for one hook, unless its configuration has a timeout
    jobs_max: int = 50  # commands of one workspace that run at the same time
    job_max_s: float = 24 * 3600.0  # for a command in the background
    background_wait_s: float = 1.0  # a command that fails within this time is reported at once
    session_directories_max: int = 1000  # sessions whose shell's working directory is remembered
    tool_max_s: float = 600.0  # for a command in the foreground
    tool_processes_max: int = 1024  # processes of all commands of one workspace; above it the largest command is ended
    tool_term_grace_s: float = 0.5  # from SIGTERM to SIGKILL of a command
    tool_pipe_grace_s: float = 0.3  # after the shell has ended while a child still holds its pipe
    tool_output_head_bytes: int = 15_000  # kept from the beginning of a long output
    tool_output_tail_bytes: int = 15_000  # kept from its end
    walk_entries_max: int = 1000  # entries that `ls` lists, unless `tools.ls.max_items` is set
    search_results_max: int = 100  # results that `grep` and `glob` list
    search_deadline_s: float = 10.0  # for `grep` and `glob`, unless their timeout is configured
    view_max_bytes: int = 200 * 1024  # of a file that `view` returns
    view_lines: int = 200  # that `view` returns, unless the call asks for another number
    view_line_max_bytes: int = 2000  # a longer line is cut by `view`
    edit_max_bytes: int = 16 * 1024 * 1024  # a larger file is neither edited nor overwritten
    image_max_bytes: int = 200 * 1024  # a larger image is refused by `view`
    tool_metadata_max_bytes: int = 64 * 1024  # file contents beside a result, for clients that draw a diff
    child_unsent_max_bytes: int = 32 * 1024 * 1024  # input that waits for a child process that does not read it
    lsp_start_wait_s: float = 5.0  # how long a tool that changed a file waits for a language server that is starting
    lsp_answer_s: float = 20.0  # for one request to a language server
    lsp_change_max_s: float = 5.0  # longest wait for diagnostics after a change
    lsp_change_none_s: float = 1.0  # longest wait for them if none come
    lsp_change_stable_s: float = 0.3  # how long none may have come for them to be complete
    lsp_view_s: float = 0.3  # longest wait for diagnostics of a file that was only read
    lsp_message_max_bytes: int = 8 * 1024 * 1024  # one message of a language server
    lsp_pending_max: int = 64  # requests that wait for one language server
    lsp_documents_max: int = 64  # files that are open in one language server
    lsp_document_max_bytes: int = 2 * 1024 * 1024  # a larger file is not opened there
    mcp_start_s: float = 10.0  # until an MCP server is connected, unless its configuration has a timeout
    mcp_start_oauth_s: float = 30.0  # the same for one with a login
    mcp_ping_s: float = 5.0  # for the check before each call; a server that does not respond is started again
    mcp_login_s: float = 300.0  # for logging in with a browser
    mcp_message_max_bytes: int = 8 * 1024 * 1024  # one message of an MCP server
    mcp_tools_max: int = 256  # tools of one server; as many prompts, and four times as many resources
    history_file_max_bytes: int = 256 * 1024  # a larger file is changed, but its versions are not kept
    history_versions_kept: int = 50  # versions of one file in one session, beside the first
    fetch_max_bytes: int = 100 * 1024  # of a page that `fetch` reads
    download_max_bytes: int = 2 * 1024**3  # one file that `download` writes
    tool_threads: int = 4  # threads of a worker for tools that walk and read files

    # --- clients ------------------------------------------------------------------------------------------------
    create_grace_s: float = 30.0  # the creator of a workspace counts as attached for this time
    detach_grace_s: float = 10.0  # a client counts as attached for this time after its last connection closed
    clients_max: int = 2048  # event streams of the server
    stream_queue_max: int = 4096  # events that wait for one client
    stream_queue_max_bytes: int = 16 * 1024 * 1024  # their data
    stream_asks_s: float = 0.5  # how long a new stream waits for the list of open permission requests
    stream_write_deadline_s: float = 30.0  # a client that reads nothing for this time is disconnected
    stream_keepalive_s: float = 15.0  # between two comments on a stream without events, which keep it open
    stream_retry_ms: int = 1000  # how long clients wait before they reconnect
    stream_retry_jitter_ms: int = 1000  # at most added at random, so that not all reconnect at once
    replay_kept: int = 4096  # numbered events of one workspace in the supervisor's memory
    replay_kept_bytes: int = 8 * 1024 * 1024  # their data; what is reached first counts
    workspaces_max: int = 10_000  # registered workspaces of the server
    disk_answer_s: float = 5.0  # for looking at a workspace's directory; an unreachable network share never responds


DEFAULT_LIMITS = Limits()


def limits_from_json(text: str | bytes) -> Limits:
    """Read limits from a JSON object; fields left out keep their default. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(text, type=Limits)
