"""The block `global.parameters` → the columns of the parameter table."""

from __future__ import annotations

import msgspec

from mrun.engine.spec.block import Block
from mrun.engine.spec.model import Parameter, Text
from mrun.engine.spec.names import check_name
from mrun.engine.spec.problems import Problems, quoted
from mrun.engine.spec.texts import has_leading_zero, normalise_number
from mrun.engine.spec.yaml_tree import Entry, Mapping, Node, Scalar, Sequence

BLOCK = "global.parameters"


def with_plain_numbers(root: Mapping, problems: Problems) -> Mapping:
    """The tree with the unquoted numbers under `values` as Python prints them, because they name directories."""
    entry = root.entries.get(BLOCK)
    if entry is None or not isinstance(entry.value, Mapping):
        return root
    parameters = {name: _with_plain_values(parameter, problems) for name, parameter in entry.value.entries.items()}
    block = msgspec.structs.replace(entry.value, entries=parameters)
    entries = {**root.entries, BLOCK: Entry(entry.key, block)}
    return msgspec.structs.replace(root, entries=entries)


def read_parameters(top: Block) -> tuple[Parameter, ...]:
    """The parameters in file order."""
    block = top.block(BLOCK)
    if block is None:
        return ()
    parameters = []
    for entry in block.entries():
        check_name(entry.key, "parameter", top.problems)
        reader = block.block(entry.key.value, f"parameter {quoted(entry.key.value)}")
        if reader is not None:
            parameters.append(_parameter(entry.key, reader))
        elif block.is_empty(entry.key.value):
            message = f"The parameter {quoted(entry.key.value)} is empty."
            top.problems.add(message, entry.key, "Give it 'values: […]' and 'label: …'.")
    _check_lengths(parameters, top.problems)
    return tuple(parameters)


def _with_plain_values(parameter: Entry, problems: Problems) -> Entry:
    values = parameter.value.entries.get("values") if isinstance(parameter.value, Mapping) else None
    if values is None or not isinstance(values.value, Sequence) or not isinstance(parameter.value, Mapping):
        return parameter
    items = tuple(_plain(item, problems) for item in values.value.items)
    sequence = msgspec.structs.replace(values.value, items=items)
    entries = {**parameter.value.entries, "values": Entry(values.key, sequence)}
    return Entry(parameter.key, msgspec.structs.replace(parameter.value, entries=entries))


def _plain(item: Node, problems: Problems) -> Node:
    if not isinstance(item, Scalar) or not item.is_number:
        return item
    plain = normalise_number(item.text.value)
    if has_leading_zero(item.text.value):
        problems.warn(
            f"The value {quoted(item.text.value)} is taken for the number {plain}.",
            item,
            "Put it in quotes to keep its leading zeros, or write it without them.",
        )
    return msgspec.structs.replace(item, text=msgspec.structs.replace(item.text, value=plain))


def _parameter(name: Text, block: Block) -> Parameter:
    block.refuse_unknown(("values", "label", "name"))
    values = _values(name, block)
    is_list = isinstance(block.node("label"), Sequence)
    label = _labels(block, len(values)) if is_list else _template(name, block)
    return Parameter(name, values, label, block.text("name"))


def _values(name: Text, block: Block) -> tuple[Text, ...]:
    node = block.node("values")
    values = block.texts("values")
    if isinstance(node, Sequence):
        # One that is wrong keeps its row, or the lists would seem to be uneven.
        items = node.items
        values = tuple(item.text if isinstance(item, Scalar) else Text("", item.line, item.column) for item in items)
    if block.is_empty("values"):
        block.problems.add(f"The {block.name} has no values.", name, "Add 'values: [1, 2]', for example.")
    return values


def _labels(block: Block, value_count: int) -> tuple[Text, ...]:
    labels = block.texts("label")
    node = block.node("label")
    if isinstance(node, Sequence) and len(node.items) != value_count:
        message = f"The {block.name} has {_number(value_count, 'value')} and {_number(len(node.items), 'label')}."
        block.problems.add(message, node, "Give one label per value, or one template such as 'X.%%' for all.")
    return labels


def _template(name: Text, block: Block) -> Text:
    return block.required_text("label", f"Add 'label: {name.value}.%%', for example: %% stands for the value.")


def _check_lengths(parameters: list[Parameter], problems: Problems) -> None:
    with_values = [parameter for parameter in parameters if parameter.values]
    for parameter in with_values[1:]:
        first = with_values[0]
        if len(parameter.values) != len(first.values):
            problems.add(
                f"The parameter {quoted(parameter.name.value)} has {_number(len(parameter.values), 'value')}, "
                f"and {quoted(first.name.value)} has {len(first.values)}.",
                parameter.name,
                "Give all parameters lists of one length: they are read row by row, not crossed.",
            )


def _number(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
