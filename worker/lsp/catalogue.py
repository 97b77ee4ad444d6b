"""The catalogue of language servers, and the languages of files."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

GENERIC = frozenset(
    {
        "bash", "bun", "bunx", "cargo", "deno", "docker", "dotnet", "go", "java", "julia", "lua", "node", "npm", "npx",
        "perl", "php", "pipx", "pnpm", "python", "python3", "r", "R", "ruby", "ruff", "rustup", "sh", "uv", "uvx",
        "yarn", "zsh",
    }
)  # fmt: skip
"""Commands that are often installed for other purposes: their presence is no reason to start a language server."""

LANGUAGES: Mapping[str, str] = {
    "bash": "shellscript", "c": "c", "cc": "cpp", "clj": "clojure", "cljs": "clojure", "cpp": "cpp", "cs": "csharp",
    "css": "css", "cts": "typescript", "cxx": "cpp", "dart": "dart", "ex": "elixir", "exs": "elixir", "elm": "elm",
    "erl": "erlang", "fs": "fsharp", "gleam": "gleam", "go": "go", "h": "c", "hh": "cpp", "hpp": "cpp", "hs": "haskell",
    "htm": "html", "html": "html", "java": "java", "jl": "julia", "js": "javascript", "json": "json", "jsonc": "jsonc",
    "jsx": "javascriptreact", "kt": "kotlin", "kts": "kotlin", "less": "less", "lua": "lua", "md": "markdown",
    "mjs": "javascript", "ml": "ocaml", "mli": "ocaml", "mod": "go.mod", "mts": "typescript", "nix": "nix",
    "php": "php", "pl": "perl", "py": "python", "pyi": "python", "r": "r", "rb": "ruby", "rs": "rust",
    "sc": "scala", "scala": "scala", "scss": "scss", "sh": "shellscript", "sql": "sql", "svelte": "svelte",
    "swift": "swift", "tex": "latex", "tf": "terraform", "toml": "toml", "ts": "typescript", "tsx": "typescriptreact",
    "vue": "vue", "xml": "xml", "yaml": "yaml", "yml": "yaml", "zig": "zig", "zsh": "shellscript",
}  # fmt: skip
"""The protocol's language ids by file extension."""

FILES: Mapping[str, str] = {"Dockerfile": "dockerfile", "Makefile": "makefile", "CMakeLists.txt": "cmake"}


@dataclass(frozen=True)
class KnownServer:
    """A server of the catalogue. Only the first installed server of a `family` is started automatically."""

    name: str
    command: str
    family: str
    filetypes: tuple[str, ...]
    root_markers: tuple[str, ...]
    args: tuple[str, ...] = ()
    init_options: Mapping[str, object] = field(default_factory=dict)


_PYTHON = ("pyproject.toml", "setup.py", "setup.cfg", "requirements.txt", "Pipfile", "pyrightconfig.json", "tox.ini")
_WEB = ("package.json", "tsconfig.json", "jsconfig.json")
_SCRIPT = ("typescript", "typescriptreact", "javascript", "javascriptreact")
_C = ("compile_commands.json", "compile_flags.txt", ".clangd", "CMakeLists.txt", "meson.build", "Makefile")

CATALOGUE = (
    KnownServer("basedpyright", "basedpyright-langserver", "python", ("python",), _PYTHON, ("--stdio",)),
    KnownServer("pyright", "pyright-langserver", "python", ("python",), _PYTHON, ("--stdio",)),
    KnownServer("pylsp", "pylsp", "python", ("python",), _PYTHON),
    KnownServer("jedi", "jedi-language-server", "python", ("python",), _PYTHON),
    KnownServer("gopls", "gopls", "go", ("go", "go.mod"), ("go.mod", "go.work")),
    KnownServer("rust-analyzer", "rust-analyzer", "rust", ("rust",), ("Cargo.toml", "rust-project.json")),
    KnownServer("vtsls", "vtsls", "script", _SCRIPT, _WEB, ("--stdio",)),
    KnownServer("typescript-language-server", "typescript-language-server", "script", _SCRIPT, _WEB, ("--stdio",)),
    KnownServer("clangd", "clangd", "c", ("c", "cpp"), _C),
    KnownServer("zls", "zls", "zig", ("zig",), ("build.zig",)),
    KnownServer(
        "lua-language-server", "lua-language-server", "lua", ("lua",), (".luarc.json", ".luarc.jsonc", ".luacheckrc")
    ),
    KnownServer("ruby-lsp", "ruby-lsp", "ruby", ("ruby",), ("Gemfile",)),
    KnownServer("solargraph", "solargraph", "ruby", ("ruby",), ("Gemfile",), ("stdio",)),
    KnownServer("intelephense", "intelephense", "php", ("php",), ("composer.json",), ("--stdio",)),
    KnownServer("phpactor", "phpactor", "php", ("php",), ("composer.json",), ("language-server",)),
    KnownServer("jdtls", "jdtls", "java", ("java",), ("pom.xml", "build.gradle", "build.gradle.kts")),
    KnownServer(
        "kotlin-language-server", "kotlin-language-server", "kotlin", ("kotlin",), ("build.gradle.kts", "pom.xml")
    ),
    KnownServer("metals", "metals", "scala", ("scala",), ("build.sbt", "build.sc")),
    KnownServer("elixir-ls", "elixir-ls", "elixir", ("elixir",), ("mix.exs",)),
    KnownServer("erlang_ls", "erlang_ls", "erlang", ("erlang",), ("rebar.config",)),
    KnownServer(
        "haskell", "haskell-language-server-wrapper", "haskell", ("haskell",), ("stack.yaml", "*.cabal"), ("--lsp",)
    ),
    KnownServer("ocamllsp", "ocamllsp", "ocaml", ("ocaml",), ("dune-project", "*.opam")),
    KnownServer("omnisharp", "omnisharp", "csharp", ("csharp",), ("*.sln", "*.csproj"), ("-lsp",)),
    KnownServer("sourcekit-lsp", "sourcekit-lsp", "swift", ("swift",), ("Package.swift",)),
    KnownServer("gleam", "gleam", "gleam", ("gleam",), ("gleam.toml",), ("lsp",)),
    KnownServer("nixd", "nixd", "nix", ("nix",), ("flake.nix", "default.nix")),
    KnownServer("nil", "nil", "nix", ("nix",), ("flake.nix", "default.nix")),
    KnownServer("terraform-ls", "terraform-ls", "terraform", ("terraform",), (".terraform", "*.tf"), ("serve",)),
    KnownServer("svelteserver", "svelteserver", "svelte", ("svelte",), ("svelte.config.js",), ("--stdio",)),
    KnownServer("elm", "elm-language-server", "elm", ("elm",), ("elm.json",)),
)


def language_of(path: Path) -> str:
    """Return the protocol's language id of a file: its extension if unknown, `plaintext` if it has none."""
    extension = path.suffix.lstrip(".").lower()
    return FILES.get(path.name) or LANGUAGES.get(extension) or extension or "plaintext"


def known_server(name: str, command: str) -> KnownServer | None:
    """Return the entry whose command this is or, without a command, that is configured under `name`; else None."""
    program = Path(command).name
    for entry in CATALOGUE:
        if program == entry.command or (not command and name in (entry.name, entry.command)):
            return entry
    return None


def handles(filetypes: tuple[str, ...], path: Path) -> bool:
    """Return whether the file has one of these language ids or extensions; true for every file if there are none."""
    if not filetypes:
        return True
    extension = path.suffix.lstrip(".").lower()
    accepted = {kind.lstrip(".").lower() for kind in filetypes}
    return language_of(path) in accepted or (bool(extension) and extension in accepted)
