"""Training states on disk: nested dicts, lists and tuples of tensors and numbers, to the bit.

Only what is named here can be written, and so only that can be read: no classes, no code.
"""

import json
import math
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from bezoar import tensorfiles
from bezoar.tensorfiles import KEY, Tensors


def save(path: Path, tree: object) -> None:
    """Write nested dicts, lists and tuples of tensors and JSON scalars, for example a snapshot.

    Tensors keep type, shape and bytes, numbers their exact value, keys may be ints or strings.

    Raises:
        ValueError: a float is NaN or infinite (a tensor may hold such values).
        TypeError: something that is none of these.
        OSError: the file cannot be written; what was there before is still there.
    """
    tensors: Tensors = {}
    node = _encoded(tree, tensors, "tree")
    tensorfiles.write(path, tensors, tensorfiles.encoded(path, {"format": 1, "tree": node}))


def load(path: Path) -> Any:
    """Read what ``save`` has written; tensors are on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or a damaged one.
    """
    with tensorfiles.opened(path) as file:
        text = (file.metadata() or {}).get(KEY, "")
        try:
            head = json.loads(text)
            if head["format"] != 1:
                raise ValueError(f"format={head['format']!r}: expected 1")
            return _decoded(head["tree"], tensorfiles.read(file))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = f"expected a state saved by bezoar; {type(error).__name__}: {error}"
            raise ValueError(f"{path}: {reason}; delete it to start anew") from error


def _encoded(node: object, tensors: Tensors, where: str) -> JsonValue:
    """Tag what JSON cannot tell apart; move tensors out into ``tensors``."""
    match node:
        case Tensor():
            name = str(len(tensors))
            tensors[name] = node
            return {"tensor": name}
        case dict():
            for key in node:
                if type(key) not in (str, int):
                    raise TypeError(f"{where} has the key {key!r}: expected a string or an int")
            pairs = [[k, _encoded(v, tensors, f"{where}.{k}")] for k, v in node.items()]
            return {"dict": pairs}  # type: ignore[dict-item]
        case list() | tuple():
            tag = "list" if isinstance(node, list) else "tuple"
            return {tag: [_encoded(v, tensors, f"{where}.{k}") for k, v in enumerate(node)]}
        case float() if not math.isfinite(node):
            raise ValueError(f"{where}={node!r}: expected a finite number")
        case None | bool() | int() | float() | str():
            return node
    found = type(node).__name__
    raise TypeError(f"{where} is a {found}: expected a tensor, dict, list, tuple or JSON scalar")


def _decoded(node: Any, tensors: Tensors) -> Any:
    match node:
        case None | bool() | int() | float() | str():
            return node
        case {"tensor": str(name)}:
            return tensors[name].clone()
        case {"list": list(items)}:
            return [_decoded(item, tensors) for item in items]
        case {"tuple": list(items)}:
            return tuple(_decoded(item, tensors) for item in items)
        case {"dict": list(pairs)}:
            return {key: _decoded(value, tensors) for key, value in pairs}
    raise ValueError(f"node {tensorfiles.short(node)} of no known sort")
