"""Find the file and the line that each value of the merged configuration comes from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from worker.config.files import Layer, Object
from worker.config.json_positions import KeyPath, TextPosition, json_positions


@dataclass(frozen=True, slots=True)
class ValueSource:
    """A file and a line; the line is 0 if the value is not written yet."""

    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}: line {self.line}" if self.line else str(self.path)


@dataclass(slots=True)
class _Node:
    """One value of the merged tree: the layer that it comes from, and its path there."""

    layer: Layer | None
    at: KeyPath
    children: dict[str | int, "_Node"] = field(default_factory=dict)


class Provenance:
    """Repeats the merge of `layers`, lowest priority first, by the rules of `files.merge`, and records the sources."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._root = _Node(None, ())
        self._positions: dict[Path, dict[KeyPath, TextPosition]] = {}
        for layer in layers:
            self._object(self._root, layer.tree, layer, ())

    def of(self, path: KeyPath) -> ValueSource | None:
        """Return the source of the value at this path of the merged tree, or of the nearest value that contains it."""
        node = self._root
        for name in path:
            child = node.children.get(name)
            if child is None:
                break
            node = child
        if node.layer is None:
            return None
        layer = node.layer
        if layer.text is None:
            return ValueSource(layer.path, 0)
        if layer.path not in self._positions:
            self._positions[layer.path] = json_positions(layer.text)
        position = self._positions[layer.path].get(node.at)
        return ValueSource(layer.path, position.line if position else 0)

    def _object(self, node: _Node, override: Object, layer: Layer, at: KeyPath) -> None:
        for key, value in override.items():
            path = (*at, key)
            current = node.children.get(key)
            if value is None:
                continue
            if isinstance(value, dict):
                is_object = current is not None and all(isinstance(name, str) for name in current.children)
                node.children[key] = _Node(layer, path, current.children if current is not None and is_object else {})
                self._object(node.children[key], value, layer, path)
            elif isinstance(value, list):
                if current is None or not all(isinstance(name, int) for name in current.children):
                    current = None
                node.children[key] = _Node(layer, path, current.children if current is not None else {})
                self._list(node.children[key], value, layer, path)
            else:
                node.children[key] = _Node(layer, path)

    def _list(self, node: _Node, items: Sequence[object], layer: Layer, at: KeyPath) -> None:
        first = len(node.children)
        for number, item in enumerate(items):
            path = (*at, number)
            child = node.children[first + number] = _Node(layer, path)
            match item:
                case dict():
                    self._object(child, item, layer, path)
                case list():
                    self._list(child, item, layer, path)
                case _:
                    pass
