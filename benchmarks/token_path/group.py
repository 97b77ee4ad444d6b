"""Measure the path of a token from an HTTP provider to clients, each load also through the bare relay."""

import tempfile
from pathlib import Path

from benchmarks.floors import Floors
from benchmarks.server import Server
from benchmarks.table import Figure
from benchmarks.token_path import cold, floors, loads, workspaces
from benchmarks.token_path.conversation import ServerConversation
from benchmarks.token_path.figures import figures
from benchmarks.token_path.helper_process import helper
from benchmarks.token_path.loads import Values
from benchmarks.token_path.options import Options
from benchmarks.token_path.process_tree import ProcessTree
from benchmarks.token_path.setup import make_projects, server_at_rest
from benchmarks.token_path.watchers import watch_server


async def measure(bare: Floors, options: Options) -> list[Figure]:
    """Measure and return the figures of this group."""
    runs: list[Values] = []
    relayed: list[Values] = []
    async with helper("benchmarks.provider") as provider:
        port = int(provider.line)
        for _ in range(options.repetitions):
            with tempfile.TemporaryDirectory(prefix="bulkhead-floor-") as name:
                relayed.append(await floors.through_relay(Path(name), port, options))
            runs.append(await cold.health(port))
            runs.append(await cold.first_run(port))
            async with server_at_rest(port) as (server, tree):
                runs.append(await workspaces.created_and_prompted(server, tree, options.workspaces))
            async with server_at_rest(port) as (server, tree):
                runs.append(await _tokens(server, tree, options))
        async with server_at_rest(port) as (server, tree):
            runs.append(await workspaces.idle(server, tree, options.idle_workspaces))
    return figures(runs, floors.texts(relayed, bare, options), options)


async def _tokens(server: Server, tree: ProcessTree, options: Options) -> Values:
    (project,) = make_projects(server.root, 1)
    one = await ServerConversation.open(server, project)
    values = await loads.one_after_the_other(one, tree.cpu_s, options.replies)
    await one.new_session()
    watchers = await watch_server(server.socket_path, one.workspace, loads.LAST_TOKEN, options.clients)
    values |= await loads.fan_out(one, watchers)
    for watcher in watchers:
        watcher.close()
    one.close()
    many = [await ServerConversation.open(server, path) for path in make_projects(server.root, options.workspaces)]
    values |= await loads.first_replies_at_once(many)
    values |= await loads.at_once(many, tree.cpu_s)
    await tree.at_rest()
    values |= await loads.paced(many, tree.cpu_s, options.paced_s)
    for conversation in many:
        conversation.close()
    return values
