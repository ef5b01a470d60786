"""A mapping of the spec, read key by key: every wrong type, missing key and unknown key is noted, none raises."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from mrun.engine.nearest import nearest_hint, nearest_name
from mrun.engine.spec.keys import Key
from mrun.engine.spec.model import Text
from mrun.engine.spec.problems import QUOTED_LENGTH, Problems, capital, quoted
from mrun.engine.spec.texts import has_token, is_walltime, parse_flag, parse_whole
from mrun.engine.spec.yaml_tree import Entry, Mapping, Node, Scalar, Sequence

#: The name of the block that holds all others.
WHOLE_SPEC = "the spec"

_FLAG_HINT = "Write yes or no."


class Block:
    """One mapping; `name` is how messages call it, such as "step 'sim'". A null value is an absent one."""

    def __init__(self, mapping: Mapping, name: str, problems: Problems) -> None:
        self.mapping = mapping
        self.name = name
        self.problems = problems
        self.line = mapping.line
        self.column = mapping.column

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Note every key that is none of `known`, with the nearest one.

        Where that is an error, the nearest key is read in its place if it is missing: so a slip hides no mistake below
        it, and what it left undefined is not told as one.
        """
        entries = dict(self.mapping.entries)
        for key, entry in self.mapping.entries.items():
            if key in known:
                continue
            message = f"{quoted(key)} is no key of {self.name}."
            self.problems.add_unknown(message, entry.key, nearest_hint(key, known))
            if not self.problems.is_lenient:
                entries.setdefault(nearest_name(key, known) or key, entry)
        self.mapping = msgspec.structs.replace(self.mapping, entries=entries)

    def warn_unused(self, unused: Collection[str]) -> None:
        """Warn of keys that other tools know, and that change nothing here."""
        for key, entry in self.mapping.entries.items():
            if key in unused:
                self.problems.warn(f"{quoted(key)} of {self.name} has no effect in mrun.", entry.key, "Remove it.")

    def entries(self) -> list[Entry]:
        """All keys and their values."""
        return list(self.mapping.entries.values())

    def node(self, key: str) -> Node | None:
        """The value, None if it is absent or null."""
        entry = self.mapping.entries.get(key)
        if entry is None or (isinstance(entry.value, Scalar) and entry.value.is_null):
            return None
        return entry.value

    def is_empty(self, key: str) -> bool:
        """Whether the value is absent, null, or an empty text, list or mapping."""
        node = self.node(key)
        if isinstance(node, Scalar):
            return not node.text.value.strip()
        return node is None or node.size == 1

    def text(self, key: str) -> Text | None:
        """A text that may be left out; an empty one counts as left out."""
        node = self.node(key)
        if node is None:
            return None
        if not isinstance(node, Scalar):
            self._wrong(key, node, "a single text")
            return None
        return node.text if node.text.value.strip() else None

    def settings(self, keys: dict[str, Key]) -> dict[str, Text]:
        """The texts of the keys that are given. One that says nothing that its key may say is noted and left out."""
        given = {name: text for name in keys if (text := self.text(name)) is not None}
        return {name: text for name, text in given.items() if self._is_fit(keys[name], text)}

    def _is_fit(self, key: Key, text: Text) -> bool:
        """Also a text that holds a token is: what it says is known when the token is replaced."""
        if has_token(text.value):
            return True
        try:
            key.parse(text.value)
        except ValueError:
            self._refuse(key.name, text, key.wanted, key.hint or key.nearest(text.value))
            return False
        return True

    def required_text(self, key: str, hint: str = "") -> Text:
        """A text that must not be empty. What is missing is noted, and an empty text stands in for it."""
        text = self.text(key)
        if text is not None:
            return text
        entry = self.mapping.entries.get(key)
        if entry is None:
            self.problems.add(f"{capital(self.name)} has no key {quoted(key)}.", self, hint or f"Add '{key}: …'.")
        elif isinstance(entry.value, Scalar):
            self.problems.add(f"{quoted(key)} of {self.name} is empty.", entry.key, hint or "Give it a text.")
        place = self if entry is None else entry.key
        return Text("", place.line, place.column)

    def flag(self, key: str, default: bool = False) -> bool:
        """A yes or no; the default where a token stands for it."""
        text = self.text(key)
        if text is None or has_token(text.value):
            return default
        flag = parse_flag(text.value)
        if flag is None:
            self._refuse(key, text, "must be yes or no", _FLAG_HINT)
            return default
        return flag

    def count(self, key: str, minimum: int, words: Collection[str] = ()) -> Text | None:
        """An integer as a text in decimal digits, or one of `words`, or a text that holds a token."""
        text = self.text(key)
        if text is None or has_token(text.value) or text.value in words:
            return text
        number = parse_whole(text.value)
        if number is None or number < minimum:
            others = "".join(f" or {quoted(word)}" for word in words)
            wanted = f"must be a whole number, at least {minimum}{others}"
            self._refuse(key, text, wanted, f"Write {key}: {max(minimum, 1)}, for example, or {key}: $(VARIABLE).")
            return None
        return msgspec.structs.replace(text, value=str(number))

    def walltime(self, key: str) -> Text | None:
        """A walltime, or a text that holds a token."""
        text = self.text(key)
        if text is not None and not has_token(text.value) and not is_walltime(text.value):
            self._refuse(key, text, "must be a walltime", "Write [[[days:]hours:]minutes:]seconds, such as 1:30:00.")
        return text

    def texts(self, key: str) -> tuple[Text, ...]:
        """A list of texts, none of them empty."""
        node = self.node(key)
        if node is None or self.is_empty(key):
            return ()
        if not isinstance(node, Sequence):
            self._wrong(key, node, "a list")
            return ()
        return tuple(text for item in node.items if (text := self.item_text(key, item)) is not None)

    def item_text(self, key: str, item: Node) -> Text | None:
        """An item of the list `key`, as a text that is not empty."""
        if not isinstance(item, Scalar):
            self.problems.add(f"{quoted(key)} of {self.name} must hold single texts only.", item, _shape_hint(item))
            return None
        if item.is_null or not item.text.value.strip():
            message = f"{quoted(key)} of {self.name} holds an empty item."
            self.problems.add(message, item, "Remove it, or give it a text.")
            return None
        return item.text

    def block(self, key: str, name: str = "") -> Block | None:
        """A mapping below this one; None if it is absent, null or empty."""
        node = self.node(key)
        if node is None or self.is_empty(key):
            return None
        if isinstance(node, Mapping):
            return Block(node, name or self._name_below(key), self.problems)
        self._wrong(key, node, "a block of keys")
        return None

    def _name_below(self, key: str) -> str:
        if self.name == WHOLE_SPEC:
            return f"the block '{key}'"
        if self.name.startswith("the block '"):
            return f"{self.name[:-1]}.{key}'"
        return f"the {key} of {self.name}"

    def _wrong(self, key: str, node: Node, wanted: str) -> None:
        message = f"{quoted(key)} of {self.name} must be {wanted}, not {_shape(node)}."
        self.problems.add(message, node, _wanted_hint(key, node, wanted))

    def _refuse(self, key: str, text: Text, wanted: str, hint: str) -> None:
        self.problems.add(f"{quoted(key)} of {self.name} {wanted}, and {quoted(text.value)} is not.", text, hint)


def _shape(node: Node) -> str:
    if isinstance(node, Mapping):
        return "a block of keys"
    return "a list" if isinstance(node, Sequence) else f"the text {quoted(node.text.value)}"


def _wanted_hint(key: str, node: Node, wanted: str) -> str:
    if wanted == "a list" and isinstance(node, Scalar):
        is_short = len(node.text.value) <= QUOTED_LENGTH and "\n" not in node.text.value
        return f"Write {key}: [{node.text.value if is_short else '…'}]."
    if wanted == "a block of keys":
        return f"Write the keys of {key} below it, indented."
    return _shape_hint(node)


def _shape_hint(node: Node) -> str:
    if isinstance(node, Mapping):
        return "Put the text in quotes if it starts with '{' or holds ': '."
    return "Put the text in quotes if it starts with '['."
