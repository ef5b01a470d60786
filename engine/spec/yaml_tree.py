"""YAML text → a tree of located values.

Every scalar keeps the text that the user wrote (`010` stays `010`) and its place. Aliases are followed, merge keys
(`<<:`) are carried out, duplicate keys are problems. Nothing is converted: which key wants a number is not known here.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from ruamel.yaml import YAML
from ruamel.yaml.composer import ComposerError, MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from mrun.engine.spec.model import Text, Tree
from mrun.engine.spec.problems import Located, Problems, quoted

#: Values that a file may have once its aliases are followed; a few lines of aliases to aliases can make billions.
MAX_VALUES = 1_000_000
#: So many characters of a text weigh as much as one value.
CHARACTERS_PER_VALUE = 1_000
#: Levels of nesting. A spec needs about eight.
MAX_DEPTH = 100

_TAG_PREFIX = "tag:yaml.org,2002:"
_KNOWN_TAGS = frozenset(
    _TAG_PREFIX + name for name in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq", "merge")
)
#: Anchor and tag before a value: `&name !!str value`.
_PROPERTIES = re.compile(r"(?:[&!]\S*\s+)+")
_SURROGATES = re.compile("[\ud800-\udfff]")
_SIMPLE_HINTS = (
    ("found character '\\t'", "Indent with blanks: YAML does not allow tabs there."),
    ("mapping values are not allowed", "Put the value in quotes if it holds ': ', and check the indentation."),
    ("cannot start any token", "Put values that start with '@', '`' or '%' in quotes."),
    ("undefined alias", "Put values that start with '*' in quotes, or define the anchor before it is used."),
    ("did not find expected", "Check the indentation, and close every quote and bracket."),
)


class Place(msgspec.Struct, frozen=True):
    """A point in the file, from 1."""

    line: int
    column: int


class Scalar(msgspec.Struct, frozen=True):
    """A text. `is_number` tells an unquoted number, `is_null` an absent value or an unquoted `null` or `~`."""

    text: Text
    is_null: bool = False
    is_number: bool = False
    size: int = 1

    @property
    def line(self) -> int:
        return self.text.line

    @property
    def column(self) -> int:
        return self.text.column


class Sequence(msgspec.Struct, frozen=True):
    """A list. `size` counts all values below, aliases followed."""

    items: tuple[Node, ...]
    line: int
    column: int
    size: int


class Entry(msgspec.Struct, frozen=True):
    """A key of a mapping, with its own place, and its value."""

    key: Text
    value: Node


class Mapping(msgspec.Struct, frozen=True):
    """A mapping after its merge keys. `size` counts all values below, aliases followed."""

    entries: dict[str, Entry]
    line: int
    column: int
    size: int


Node = Scalar | Sequence | Mapping


def read_tree(text: str, problems: Problems) -> Mapping:
    """The tree of a file's one document. Raises if there is no tree; notes duplicate keys and strange tags."""
    root = _compose(text, problems)
    if root is None:
        problems.fail("The file is empty.", hint="A spec needs the blocks 'description' and 'study'.")
    tree = _Walker(text, problems).walk(root)
    if not isinstance(tree, Mapping):
        shape = "a list" if isinstance(tree, Sequence) else "a single value"
        problems.fail(
            f"A spec is a mapping of blocks, and this file holds {shape}.",
            Place(1, 1),
            "Start with the blocks 'description:' and 'study:' at the left edge.",
        )
    return tree


def to_tree(node: Node) -> Tree:
    """The tree without the places of keys, for the expanded spec. A null is an empty text, which means the same."""
    if isinstance(node, Mapping):
        return {name: to_tree(entry.value) for name, entry in node.entries.items()}
    if isinstance(node, Sequence):
        return [to_tree(item) for item in node.items]
    return Text("", node.line, node.column) if node.is_null else node.text


def _compose(text: str, problems: Problems) -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    yaml.composer.warn_double_anchors = False  # a later anchor of the same name wins, as YAML 1.2 says
    try:
        return yaml.compose(text)
    except MaxDepthExceededError as error:
        problems.fail(f"The values are nested more than {MAX_DEPTH} levels deep.", _place(error.problem_mark))
    except ReaderError as error:
        character = error.character if isinstance(error.character, str) else chr(error.character)
        problems.fail(
            f"The file holds the character U+{ord(character):04X}, which YAML does not allow.",
            _place_at(text, error.position),
            "Remove it, or write it as an escape in a double-quoted text.",
        )
    except MarkedYAMLError as error:
        problems.fail(_complaint(error), _place(error.problem_mark or error.context_mark), _syntax_hint(error))
    except (YAMLError, ValueError, OverflowError, RecursionError) as error:
        problems.fail(f"This is not YAML: {str(error).splitlines()[0]}.")


def _complaint(error: MarkedYAMLError) -> str:
    if isinstance(error, ComposerError) and "another document" in str(error.problem):
        return "The file holds more than one YAML document."
    context = f" {error.context}" if error.context else ""
    return f"This is not YAML: {error.problem or 'a mistake'}{context}."


def _syntax_hint(error: MarkedYAMLError) -> str:
    if isinstance(error, ComposerError) and "another document" in str(error.problem):
        return "Keep one spec per file, and remove the line '---' between them."
    for sign, hint in _SIMPLE_HINTS:
        if sign in str(error.problem):
            return hint
    return "Check the indentation, the quotes and the brackets of this line and the one above."


def _place(mark: Any) -> Place | None:
    return Place(mark.line + 1, mark.column + 1) if mark is not None else None


def _place_at(text: str, index: int) -> Place:
    return Place(text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index))


def _joined(value: str) -> str:
    """JSON writes a character beyond the first 65,536 as two escapes, which ruamel leaves apart."""
    if not _SURROGATES.search(value):
        return value
    return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


class _Walker:
    """Walks ruamel's graph of nodes once per node: aliases share what was made of their anchor."""

    def __init__(self, text: str, problems: Problems) -> None:
        self.text = text
        self.problems = problems
        self._made: dict[int, Node] = {}
        self._open: set[int] = set()

    def walk(self, node: Any) -> Node:
        made = self._made.get(id(node))
        if made is not None:
            return made
        if id(node) in self._open:
            self.problems.fail(
                "This value holds itself through an alias.", _place(node.start_mark), "Remove the alias inside it."
            )
        self._open.add(id(node))
        made = self._make(node)
        self._open.discard(id(node))
        self._made[id(node)] = made
        if made.size > MAX_VALUES:
            self.problems.fail(
                f"The aliases of this file make more than {MAX_VALUES:,} values of it.",
                made,
                "Keep large tables in a file of their own, and use fewer aliases to aliases.",
            )
        return made

    def _make(self, node: Any) -> Node:
        if node.tag not in _KNOWN_TAGS:
            self.problems.add(
                f"The tag {quoted(str(node.tag))} means nothing to mrun.",
                _place(node.start_mark),
                "Remove it, or put the value in quotes if it starts with '!'.",
            )
        if isinstance(node, ScalarNode):
            return self._scalar(node)
        place = _place(node.start_mark) or Place(0, 0)
        if isinstance(node, SequenceNode):
            items = tuple(self.walk(item) for item in node.value)
            return Sequence(items, place.line, place.column, 1 + sum(item.size for item in items))
        assert isinstance(node, MappingNode)
        return self._mapping(node, place)

    def _scalar(self, node: Any) -> Scalar:
        line, column = self._first_character(node)
        return Scalar(
            Text(_joined(node.value), line, column, is_block=node.style in ("|", ">")),
            is_null=node.tag == _TAG_PREFIX + "null" and node.style is None,
            is_number=node.tag in (_TAG_PREFIX + "int", _TAG_PREFIX + "float"),
            size=1 + len(node.value) // CHARACTERS_PER_VALUE,
        )

    def _first_character(self, node: Any) -> tuple[int, int]:
        index = node.start_mark.index
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        properties = _PROPERTIES.match(self.text, index)
        if properties is not None:
            index = properties.end()
            place = _place_at(self.text, index)
            line, column = place.line, place.column
        if node.style in ("|", ">"):
            return line + 1, self._indentation(index, node.value) + 1
        return line, column + (1 if node.style else 0)

    def _indentation(self, index: int, value: str) -> int:
        """Blanks that the file has before a block scalar's text: its first line's own ones are part of the text."""
        own = next((line for line in value.split("\n") if line.strip()), None)
        if own is None:
            return 0
        start = self.text.find("\n", index) + 1
        found = re.compile(r"(?:[ \t]*\r?\n)*( *)").match(self.text, start)
        in_file = len(found.group(1)) if found is not None else 0
        return max(0, in_file - (len(own) - len(own.lstrip(" "))))

    def _mapping(self, node: Any, place: Place) -> Mapping:
        merged: dict[str, Entry] = {}
        explicit: dict[str, Entry] = {}
        merge_place: Scalar | None = None
        for key_node, value_node in node.value:
            key, value = self.walk(key_node), self.walk(value_node)
            if key_node.tag == _TAG_PREFIX + "merge":
                assert isinstance(key, Scalar)
                self._report_duplicate(key, merge_place)
                merge_place = key
                merged = self._merged(value)
            elif not isinstance(key, Scalar):
                self.problems.add(
                    "A key must be a text, and this one is a list or a mapping.",
                    key,
                    "Put a value that starts with '{' or '[' in quotes.",
                )
            else:
                before = explicit.get(key.text.value)
                self._report_duplicate(key, before.key if before is not None else None)
                explicit.setdefault(key.text.value, Entry(key.text, value))
        entries = {**merged, **explicit}
        size = 1 + sum(1 + entry.value.size for entry in entries.values())
        return Mapping(entries, place.line, place.column, size)

    def _report_duplicate(self, key: Scalar, before: Located | None) -> None:
        if before is None:
            return
        is_merge = key.text.value == "<<"
        self.problems.add(
            f"The key {quoted(key.text.value)} stands twice in one block: here and at line {before.line}.",
            key,
            "Write '<<: [*first, *second]'." if is_merge else "Keep one of the two.",
        )

    def _merged(self, value: Node) -> dict[str, Entry]:
        sources = value.items if isinstance(value, Sequence) else (value,)
        merged: dict[str, Entry] = {}
        for source in sources:
            if not isinstance(source, Mapping):
                self.problems.add(
                    "'<<' merges mappings, and this is none.",
                    source,
                    "Write '<<: *anchor', where &anchor is a mapping.",
                )
                continue
            for name, entry in source.entries.items():
                merged.setdefault(name, entry)
        return merged
