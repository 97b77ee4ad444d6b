"""Which file, and which line of it, each value of the merged configuration came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker.config.files import Layer, Object
from worker.config.json_positions import KeyPath, Position, positions


@dataclass(frozen=True, slots=True)
class Source:
    """A file and a line; the line is 0 for what is not written yet."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}: line {self.line}" if self.line else str(self.path)


@dataclass(slots=True)
class _Node:
    """One value of the merged tree: the layer that it is from, and its path there."""

    layer: Layer | None
    at: KeyPath
    below: dict[str | int, "_Node"] = field(default_factory=dict)


class Sources:
    """Follows the merging of `layers`, lowest first, by the rules of `files.merge`."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._root = _Node(None, ())
        self._positions: dict[Path, dict[KeyPath, Position]] = {}
        for layer in layers:
            self._object(self._root, layer.tree, layer, ())

    def of(self, path: KeyPath) -> Source | None:
        """Where the value at this path of the merged tree was written, or the nearest one around it."""
        node, found = self._root, None
        for name in path:
            below = node.below.get(name)
            if below is None:
                break
            node = found = below
        if found is None or found.layer is None:
            return None
        layer = found.layer
        if layer.text is None:
            return Source(layer.path, 0)
        if layer.path not in self._positions:
            self._positions[layer.path] = positions(layer.text)
        position = self._positions[layer.path].get(found.at)
        return Source(layer.path, position.line if position else 0)

    def _object(self, node: _Node, over: Object, layer: Layer, at: KeyPath) -> None:
        for key, value in over.items():
            here = (*at, key)
            below = node.below.get(key)
            if value is None:
                continue
            if isinstance(value, dict):
                is_object = below is not None and all(isinstance(name, str) for name in below.below)
                node.below[key] = _Node(layer, here, below.below if below is not None and is_object else {})
                self._object(node.below[key], value, layer, here)
            elif isinstance(value, list):
                if below is None or not all(isinstance(name, int) for name in below.below):
                    below = None
                node.below[key] = _Node(layer, here, below.below if below is not None else {})
                self._list(node.below[key], value, layer, here)
            else:
                node.below[key] = _Node(layer, here)

    def _list(self, node: _Node, items: Sequence[object], layer: Layer, at: KeyPath) -> None:
        first = len(node.below)
        for number, item in enumerate(items):
            here = (*at, number)
            below = node.below[first + number] = _Node(layer, here)
            match item:
                case dict():
                    self._object(below, item, layer, here)
                case list():
                    self._list(below, item, layer, here)
                case _:
                    pass
