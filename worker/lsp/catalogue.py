"""Language servers that are known by name, and which language a file is written in."""

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
"""Commands that are installed for other reasons: that they are there does not say that anybody wants their server."""

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
"""The protocol's name of a language, by the extension of its files."""

FILES: Mapping[str, str] = {"Dockerfile": "dockerfile", "Makefile": "makefile", "CMakeLists.txt": "cmake"}


@dataclass(frozen=True)
class Known:
    """A server of the catalogue. Of one `family` only the first that is installed is started unasked."""

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
    Known("basedpyright", "basedpyright-langserver", "python", ("python",), _PYTHON, ("--stdio",)),
    Known("pyright", "pyright-langserver", "python", ("python",), _PYTHON, ("--stdio",)),
    Known("pylsp", "pylsp", "python", ("python",), _PYTHON),
    Known("jedi", "jedi-language-server", "python", ("python",), _PYTHON),
    Known("gopls", "gopls", "go", ("go", "go.mod"), ("go.mod", "go.work")),
    Known("rust-analyzer", "rust-analyzer", "rust", ("rust",), ("Cargo.toml", "rust-project.json")),
    Known("vtsls", "vtsls", "script", _SCRIPT, _WEB, ("--stdio",)),
    Known("typescript-language-server", "typescript-language-server", "script", _SCRIPT, _WEB, ("--stdio",)),
    Known("clangd", "clangd", "c", ("c", "cpp"), _C),
    Known("zls", "zls", "zig", ("zig",), ("build.zig",)),
    Known(
        "lua-language-server", "lua-language-server", "lua", ("lua",), (".luarc.json", ".luarc.jsonc", ".luacheckrc")
    ),
    Known("ruby-lsp", "ruby-lsp", "ruby", ("ruby",), ("Gemfile",)),
    Known("solargraph", "solargraph", "ruby", ("ruby",), ("Gemfile",), ("stdio",)),
    Known("intelephense", "intelephense", "php", ("php",), ("composer.json",), ("--stdio",)),
    Known("phpactor", "phpactor", "php", ("php",), ("composer.json",), ("language-server",)),
    Known("jdtls", "jdtls", "java", ("java",), ("pom.xml", "build.gradle", "build.gradle.kts")),
    Known("kotlin-language-server", "kotlin-language-server", "kotlin", ("kotlin",), ("build.gradle.kts", "pom.xml")),
    Known("metals", "metals", "scala", ("scala",), ("build.sbt", "build.sc")),
    Known("elixir-ls", "elixir-ls", "elixir", ("elixir",), ("mix.exs",)),
    Known("erlang_ls", "erlang_ls", "erlang", ("erlang",), ("rebar.config",)),
    Known("haskell", "haskell-language-server-wrapper", "haskell", ("haskell",), ("stack.yaml", "*.cabal"), ("--lsp",)),
    Known("ocamllsp", "ocamllsp", "ocaml", ("ocaml",), ("dune-project", "*.opam")),
    Known("omnisharp", "omnisharp", "csharp", ("csharp",), ("*.sln", "*.csproj"), ("-lsp",)),
    Known("sourcekit-lsp", "sourcekit-lsp", "swift", ("swift",), ("Package.swift",)),
    Known("gleam", "gleam", "gleam", ("gleam",), ("gleam.toml",), ("lsp",)),
    Known("nixd", "nixd", "nix", ("nix",), ("flake.nix", "default.nix")),
    Known("nil", "nil", "nix", ("nix",), ("flake.nix", "default.nix")),
    Known("terraform-ls", "terraform-ls", "terraform", ("terraform",), (".terraform", "*.tf"), ("serve",)),
    Known("svelteserver", "svelteserver", "svelte", ("svelte",), ("svelte.config.js",), ("--stdio",)),
    Known("elm", "elm-language-server", "elm", ("elm",), ("elm.json",)),
)


def language_of(path: Path) -> str:
    """The protocol's name of the language of a file; its extension where the language is not known."""
    extension = path.suffix.lstrip(".").lower()
    return FILES.get(path.name) or LANGUAGES.get(extension) or extension or "plaintext"


def known_server(name: str, command: str) -> Known | None:
    """The entry for a server that a user configured under `name`, or that its command gives away."""
    program = Path(command).name
    for entry in CATALOGUE:
        if program == entry.command or (not command and name in (entry.name, entry.command)):
            return entry
    return None


def handles(filetypes: tuple[str, ...], path: Path) -> bool:
    """Is the file of one of these languages or extensions? Without any, every file is."""
    if not filetypes:
        return True
    extension = path.suffix.lstrip(".").lower()
    wanted = {kind.lstrip(".").lower() for kind in filetypes}
    return language_of(path) in wanted or (bool(extension) and extension in wanted)
