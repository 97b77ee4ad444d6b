"""Every limit and deadline, with its unit in its name and its reason beside it.

One frozen value is made at start and handed down; tests and operators replace single fields.
"""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """All bounds of one server. `_s` are seconds on the monotonic clock, `_bytes` bytes, `_max` counts."""

    # --- requests -----------------------------------------------------------------------------------------------
    body_max_bytes: int = 32 * 1024 * 1024  # a prompt with a few images; above it 413
    header_max_bytes: int = 64 * 1024
    header_deadline_s: float = 10.0  # slow headers hold a connection no longer than this
    body_deadline_s: float = 60.0
    idle_connection_s: float = 300.0  # clients keep idle connections 90 s; we must outlast them
    call_deadline_s: float = 30.0  # a request to a worker, unless its operation says otherwise
    control_grace_s: float = 0.2  # lets the answer to a shutdown request reach its client

    # --- messages between supervisor and worker -----------------------------------------------------------------
    message_max_bytes: int = 64 * 1024 * 1024  # libzmq drops a link silently above its own limit; we refuse first
    calls_in_flight_max: int = 512  # of one worker
    event_window: int = 2048  # numbered events a worker may have under way
    event_batch_max: int = 512
    event_batch_max_bytes: int = 1024 * 1024
    bad_messages_max: int = 16  # then the peer is cut
    replies_kept: int = 1024  # answers a worker remembers for repeated calls
    replies_kept_bytes: int = 16 * 1024 * 1024

    # --- the life of a worker -----------------------------------------------------------------------------------
    zygote_ready_s: float = 60.0  # imports of the agent stack on a slow, cold disk
    fork_deadline_s: float = 5.0  # a warm zygote forks within milliseconds; later it hangs and is replaced
    start_deadline_s: float = 20.0  # fork to ready, recovery included
    heartbeat_interval_s: float = 0.5
    heartbeat_lost_s: float = 5.0  # no beat from the worker's loop for so long: hung, killed, replaced
    restart_intensity: int = 3  # so many deaths within the period and we stop (Erlang's rule)
    restart_period_s: float = 60.0
    restart_delay_s: float = 0.0  # the first replacement starts at once
    restart_delay_s_max: float = 10.0
    restart_healthy_s: float = 600.0  # healthy for so long clears the delay
    wake_deadline_s: float = 20.0  # a request waits so long for a worker to be ready
    kill_deadline_s: float = 2.0  # SIGKILL to reaped, tree included
    poison_deaths_max: int = 2  # a run whose start killed its worker so often fails
    tenure_s: float = 60.0  # an idle worker that hears no supervisor leaves
    evict_idle_s: float = 900.0  # nobody here and nothing to do for so long: the worker may sleep

    # --- shutdown, one budget a stage, the sum below systemd's stop timeout ---------------------------------------
    drain_s: float = 5.0  # runs end after their cancel
    flush_s: float = 5.0  # last writes, detached from the runs
    exit_s: float = 2.0  # the last word to the process's end
    settle_s: float = 5.0  # one detached write

    # --- storage ------------------------------------------------------------------------------------------------
    storage_busy_s: float = 5.0  # another process holds the write lock
    storage_job_s: float = 15.0  # second deadline: outcome unknown, the worker ends itself
    storage_backlog_max: int = 4096
    events_kept: int = 20_000  # rows of the event log; older cursors get `reset`
    events_kept_bytes: int = 128 * 1024 * 1024  # of their data: what comes first
    lock_deadline_s: float = 1.0  # a second worker on a data directory refuses within this

    # --- runs and messages --------------------------------------------------------------------------------------
    queued_prompts_max: int = 256  # waiting prompts of one session
    prompt_max_bytes: int = 16 * 1024 * 1024
    picture_interval_s: float = 0.033  # a growing message is shown and stored at most so often
    picture_bytes_per_s: int = 4_000_000  # a long message is shown less often, or its cost would grow with its square
    run_max_s: float = 24 * 3600.0
    steps_max: int = 500  # model requests of one run
    tools_parallel_max: int = 5
    history_max_messages: int = 20_000
    summary_clips_max: int = 6  # a conversation too long to summarise is halved so often
    permission_wait_s: float = 1800.0  # a request or question while no client is there to see it
    git_s: float = 3.0  # one look at the worktree, for the system prompt
    title_s: float = 60.0  # asking a model for a session's title

    # --- models -------------------------------------------------------------------------------------------------
    model_first_event_s: float = 120.0
    model_progress_s: float = 120.0  # between two events of the model, not bytes
    model_connect_s: float = 30.0
    model_retries_max: int = 3
    model_retry_delay_s: float = 5.0  # doubles
    model_retry_delay_s_max: float = 60.0

    # --- the local model's process ------------------------------------------------------------------------------
    local_model_start_s: float = 60.0  # a cold disk and a busy machine; warm it takes one to three
    local_model_idle_s: float = 300.0  # nobody asked for so long: its memory is given back
    local_model_lost_s: float = 15.0  # no beat for so long: hung; it yields to everything else, so it may be slow
    local_model_leave_s: float = 30.0  # one whose supervisor is gone finishes its answers within this

    # --- tools --------------------------------------------------------------------------------------------------
    hook_s: float = 30.0
    jobs_max: int = 50  # commands of one workspace that run at the same time
    job_max_s: float = 24 * 3600.0  # a command in the background
    background_wait_s: float = 1.0  # a command that fails at once is told of at once
    session_directories_max: int = 1000  # sessions whose shell is remembered to stand somewhere
    tool_max_s: float = 600.0
    tool_processes_max: int = 1024  # of all commands of one workspace; above it the largest is ended
    tool_term_grace_s: float = 0.5  # SIGTERM to SIGKILL
    tool_pipe_grace_s: float = 0.3  # the shell is gone, a child still holds its pipe
    tool_output_head_bytes: int = 15_000
    tool_output_tail_bytes: int = 15_000
    walk_entries_max: int = 1000
    search_results_max: int = 100
    search_deadline_s: float = 10.0
    view_max_bytes: int = 200 * 1024
    view_lines: int = 200
    view_line_max_bytes: int = 2000
    edit_max_bytes: int = 16 * 1024 * 1024  # a larger file is neither edited nor overwritten
    image_max_bytes: int = 200 * 1024
    tool_metadata_max_bytes: int = 64 * 1024  # file contents beside a result, for clients that draw a diff
    child_unsent_max_bytes: int = 32 * 1024 * 1024  # waiting for a child that does not read its input
    lsp_start_wait_s: float = 5.0  # a tool that changed a file waits so long for a server that is starting
    lsp_answer_s: float = 20.0
    lsp_change_max_s: float = 5.0  # diagnostics after a change: at most so long,
    lsp_change_none_s: float = 1.0  # or so long without any news,
    lsp_change_stable_s: float = 0.3  # or so long after the last
    lsp_view_s: float = 0.3  # diagnostics of a file that was only read
    lsp_message_max_bytes: int = 8 * 1024 * 1024
    lsp_pending_max: int = 64  # requests that wait for one server
    lsp_documents_max: int = 64  # files that are open in one server
    lsp_document_max_bytes: int = 2 * 1024 * 1024
    mcp_start_s: float = 10.0  # until an MCP server is connected, unless the configuration says otherwise
    mcp_start_oauth_s: float = 30.0  # the same for one with a login
    mcp_ping_s: float = 5.0  # before each call; a server that does not answer is started again
    mcp_login_s: float = 300.0  # somebody logs in, in a browser
    mcp_message_max_bytes: int = 8 * 1024 * 1024
    mcp_tools_max: int = 256  # of one server; as many prompts, and four times as many resources
    history_file_max_bytes: int = 256 * 1024  # a longer file is changed, but its versions are not kept
    history_versions_kept: int = 50  # of one file in one session, beside the first
    fetch_max_bytes: int = 100 * 1024
    download_max_bytes: int = 2 * 1024**3
    tool_threads: int = 4  # for tools that walk and read files

    # --- clients ------------------------------------------------------------------------------------------------
    create_grace_s: float = 30.0
    detach_grace_s: float = 10.0
    clients_max: int = 2048  # event streams of the server
    stream_queue_max: int = 4096  # events waiting for one client
    stream_queue_max_bytes: int = 16 * 1024 * 1024
    stream_asks_s: float = 0.5  # a new stream waits so long for the requests that are open
    stream_write_deadline_s: float = 30.0  # a client that takes nothing for so long is cut
    stream_keepalive_s: float = 15.0
    stream_retry_ms: int = 1000
    stream_retry_jitter_ms: int = 1000
    replay_kept: int = 4096  # numbered events of one workspace in the supervisor's memory
    replay_kept_bytes: int = 8 * 1024 * 1024
    workspaces_max: int = 10_000
    disk_answer_s: float = 5.0  # a look at a workspace's directory; a share that is gone never answers


DEFAULT_LIMITS = Limits()


def limits_from_json(text: str | bytes) -> Limits:
    """Read limits from a JSON object; fields left out keep their default. Raises msgspec.MsgspecError."""
    return msgspec.json.decode(text, type=Limits)
