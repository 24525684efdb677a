"""A network of the user's own, made by a function of theirs."""

import importlib
import sys
from pathlib import Path

from torch import nn


def from_factory(spec: str) -> nn.Module:
    """Import ``module:function``, call the function without arguments, return its network.

    A factory is code, and it runs with all the rights of whoever runs bezoar: name only what you
    trust. Its weights are loaded apart from it, from files that cannot hold code.

    The current folder becomes importable, after all that is installed: a stray file cannot stand
    in for a library. It stays so, since a network may import more when it runs.

    Raises:
        ValueError: ``spec`` is not of this form, the module or function is missing or fails, or
            what comes back is not a ``torch.nn.Module``.
    """
    module_name, _, name = spec.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), name)):
        expected = "expected module:function, for example mynets:small_net"
        raise ValueError(f"model {spec!r}: {expected}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        expected = f"expected a module in {folder} or among the installed packages"
        raise ValueError(f"model {spec!r}: {error}; {expected}") from error
    except Exception as error:  # whatever a stranger's module does when it is imported
        raise ValueError(f"model {spec!r}: its module fails with {_line(error)}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ValueError(f"model {spec!r}: expected a function of {module_name}, found none")
    try:
        model = factory()
    except Exception as error:  # likewise
        reason = f"the function, called without arguments, fails with {_line(error)}"
        raise ValueError(f"model {spec!r}: {reason}") from error
    if not isinstance(model, nn.Module):
        found = type(model).__name__
        raise ValueError(f"model {spec!r} gives a {found}: expected a torch.nn.Module")
    return model


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
