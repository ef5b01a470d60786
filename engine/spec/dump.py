"""A tree of texts → YAML that `load_spec` reads back as the same texts."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from mrun.engine.spec.model import Text, Tree
from mrun.engine.spec.texts import normalise_number

#: No line is folded: scripts are copied out of these files by hand.
_LINE_WIDTH = 2**31
_TAG = "tag:yaml.org,2002:"
#: Numbers that need no quotes, by the type that YAML 1.2 gives them.
_NUMBERS = {"int": re.compile(r"-?[0-9]+"), "float": re.compile(r"-?[0-9]+\.[0-9]+(?:e[-+][0-9]+)?")}
#: One line that ruamel may write as it is. YAML's other line breaks and control characters must be escaped: the
#: emitter would write U+0085 into single quotes, where it is folded.
_PRINTABLE = re.compile(r"[\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*")
#: What a `|` scalar may hold.
_LITERAL = re.compile(r"[\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*")


def dump_spec(tree: Tree, replace: Callable[[Text], str] = lambda text: text.value) -> str:
    """The tree as one YAML document.

    Args:
        tree: Keys are written as they are.
        replace: Gives what is written for a value; called once for each, in file order.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.width = _LINE_WIDTH
    yaml.allow_unicode = True
    yaml.map_indent, yaml.sequence_indent, yaml.sequence_dash_offset = 2, 4, 2
    stream = io.StringIO()
    yaml.serialize(_node(tree, replace), stream)
    return stream.getvalue()


def _node(tree: Tree, replace: Callable[[Text], str]) -> Any:
    if isinstance(tree, dict):
        pairs = [(_scalar(key, is_key=True), _node(value, replace)) for key, value in tree.items()]
        return MappingNode(_TAG + "map", pairs, flow_style=not pairs)
    if isinstance(tree, list):
        return SequenceNode(_TAG + "seq", [_node(item, replace) for item in tree], flow_style=not tree)
    return _scalar(replace(tree))


def _scalar(value: str, *, is_key: bool = False) -> Any:
    """A scalar in the plainest style that comes back as the same text."""
    if not _PRINTABLE.fullmatch(value):
        is_literal = not is_key and value[0] not in " \t\n" and _LITERAL.fullmatch(value)
        return ScalarNode(_TAG + "str", value, style="|" if is_literal else '"')
    # What reads as a number is quoted, as a text, unless load_spec would read the unquoted number as this text.
    if value in ("true", "false"):
        return ScalarNode(_TAG + "bool", value)
    if normalise_number(value) == value:
        for kind in ("int", "float"):
            if _NUMBERS[kind].fullmatch(value):
                return ScalarNode(_TAG + kind, value)
    return ScalarNode(_TAG + "str", value)
