"""Models and training states on disk: safetensors with one JSON header, never a pickle.

A file is written beside its place and renamed into it, so a reader sees the old one or the new
one, whole. Whatever is read is a stranger's until it is checked: the header, the sizes that it
promises, the names and shapes of the tensors, their values.
"""

import json
import math
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from bezoar import checks
from bezoar.models import MODELS

KEY = "bezoar"  # one metadata key only: with several, safetensors writes them in any order
USER = "user"  # kind of a network that a user's own factory makes

REALS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

Tensors = dict[str, Tensor]


class Header(BaseModel):
    """What a model file says of its model, checked for form only.

    Attributes:
        format: version of this layout.
        kind: name in ``MODELS``, or ``"user"``.
        fields: arguments that the network is built with.
        children: models inside this one; none of today's kinds has any.
        classes: name of each class, as many as the model has logits.
        shape: channels, height and width of an image.
        training: record of how the weights came about.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: str
    fields: dict[str, JsonValue]
    children: dict[str, JsonValue] = {}
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    training: dict[str, JsonValue] = {}


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model from a file, in eval mode on the CPU, and what its header says; see ``Header``."""

    model: nn.Module
    kind: str
    fields: Mapping[str, Any]
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    training: Mapping[str, Any]


def save(
    path: Path,
    model: nn.Module,
    *,
    classes: Sequence[str],
    shape: Sequence[int] | None = None,
    training: Mapping[str, object] | None = None,
) -> None:
    """Write a model: its kind and fields, its weights, the names of its classes.

    Args:
        path: file to write or to replace, ``NAME.safetensors``.
        model: one of ``MODELS``, which knows its kind and fields; any other is stored as kind
            ``"user"``, whose weights only can be read again (``load_weights``).
        classes: name of each class.
        shape: channels, height and width of an image; needed for a user's own network only.
        training: how the weights came about, as JSON values.

    Raises:
        ValueError: names or shape that do not fit the model, weights or a record that are not
            finite.
        OSError: the file cannot be written; what was there before is still there.
    """
    kind, fields = _identity(model)
    if kind == USER and shape is None:
        raise ValueError("shape=None: expected (C, H, W) of the images for a network of your own")
    head = {
        "format": 1,
        "kind": kind,
        "fields": fields,
        "children": {},
        "classes": list(classes),
        "shape": list(fields["shape"] if shape is None else shape),
        "training": dict(training or {}),
    }
    _require_agreement(path, _header(path, {KEY: _json(path, head)}), fields)
    state = model.state_dict()
    _require_finite(path, state)
    _write(path, state, head)


def header(path: Path) -> Header:
    """Read what a model file says of its model, without building it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model file of bezoar, damaged, or made by a newer version.
    """
    with _opened(path) as file:
        return _header(path, file.metadata())


def load(path: Path) -> Loaded:
    """Read a model that ``save`` has written, in eval mode on the CPU.

    The network is first laid out without memory and compared with what the file holds: a header
    that promises a terabyte costs nothing.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model file of bezoar, damaged, of an unknown kind, or with a header and
            tensors that contradict one another.
    """
    with _opened(path) as file:
        head = _header(path, file.metadata())
        tensors = _tensors(file)
        model = _planned(path, head)
        _require_same(path, model.state_dict(), tensors, f"{head.kind} with the header's fields")
        _require_finite(path, tensors)
        _require_normalisation(path, model, tensors)
        # assign keeps the type of the file, float64 for instance; a copy lets go of the file.
        model.load_state_dict({name: value.clone() for name, value in tensors.items()}, assign=True)
    return Loaded(
        model=model.eval(),
        kind=head.kind,
        fields=head.fields,
        classes=head.classes,
        shape=head.shape,
        training=head.training,
    )


def load_weights(path: Path, model: nn.Module) -> None:
    """Fill a network of the user's own with weights from a file that cannot run code.

    Args:
        path: ``.safetensors`` (plain tensors, or a model file of bezoar), or ``.pt``, ``.pth``,
            ``.bin`` of ``torch.save`` holding a state dict, bare or under ``"state_dict"``. The
            prefix ``module.`` of ``DataParallel`` is dropped.
        model: changed in place, and only if everything fits.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another kind of file, one that holds code, or weights of another network.
    """
    if path.suffix == ".safetensors":
        with _opened(path) as file:
            _fill(path, model, _tensors(file))
    elif path.suffix in (".pt", ".pth", ".bin"):
        _fill(path, model, _state_dict(path))
    else:
        raise ValueError(f"{path}: expected a file .safetensors, .pt, .pth or .bin")


def save_tree(path: Path, tree: object) -> None:
    """Write nested dicts, lists and tuples of tensors and JSON scalars, for example a snapshot.

    Tensors keep type, shape and bytes, numbers their exact value, keys may be ints or strings.

    Raises:
        ValueError: a float is NaN or infinite (a tensor may hold such values).
        TypeError: something that is none of these.
        OSError: the file cannot be written; what was there before is still there.
    """
    tensors: Tensors = {}
    node = _encoded(tree, tensors, "tree")
    _write(path, tensors, {"format": 1, "tree": node})


def load_tree(path: Path) -> Any:
    """Read what ``save_tree`` has written; tensors are on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or a damaged one.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get(KEY, "")
        try:
            head = json.loads(text)
            if head["format"] != 1:
                raise ValueError(f"format={head['format']!r}: expected 1")
            return _decoded(head["tree"], _tensors(file))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = f"expected a state saved by bezoar; {type(error).__name__}: {error}"
            raise ValueError(f"{path}: {reason}; delete it to start anew") from error


# Writing


def _identity(model: nn.Module) -> tuple[str, dict[str, Any]]:
    for kind, cls in MODELS.items():
        if type(model) is cls:
            fields: dict[str, Any] = model.fields  # type: ignore[assignment]
            return kind, fields
    return USER, {}


def _write(path: Path, tensors: Mapping[str, Tensor], head: Mapping[str, Any]) -> None:
    text = _json(path, head)
    # A copy each: safetensors refuses tensors that share memory, as tied weights do.
    plain = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    data = safetensors_bytes(plain, {KEY: text})
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError as error:
        if error.filename is None:  # a full disk does not say which file it was
            error.filename = str(path)
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _json(path: Path, head: Mapping[str, Any]) -> str:
    try:
        return json.dumps(head, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: header: {error}: expected finite JSON values") from error


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


# Reading


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, whose own checks tie every size in it to the size of the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found none; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        reason = f"{error}; it is damaged or of another format, get it again"
        raise ValueError(f"{path}: expected a safetensors file; {reason}") from error


def _tensors(file: Any) -> Tensors:
    return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict


def _header(path: Path, metadata: Mapping[str, str] | None) -> Header:
    text = (metadata or {}).get(KEY)
    if text is None:
        hint = "for plain weights give --model module:function --weights FILE"
        raise ValueError(f"{path}: expected a model saved by bezoar, found no header; {hint}")
    try:
        return Header.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, ("header", *first["loc"])))
        hint = "; a newer bezoar made it, update this one" if first["loc"] == ("format",) else ""
        raise ValueError(
            f"{path}: {name}: {first['msg']}, found {_short(first['input'])}{hint}"
        ) from error


def _planned(path: Path, header: Header) -> nn.Module:
    """The network of a header on the meta device: names and shapes, no memory."""
    if header.kind == USER:
        hint = "give its factory, --model module:function, and this file as --weights"
        raise ValueError(f"{path}: holds weights of a network of someone's own; {hint}")
    try:
        checks.known("model", header.kind, MODELS)
        if header.children:
            raise ValueError(f"children {_short(sorted(header.children))}: expected none")
        with torch.device("meta"):
            model = MODELS[header.kind](**header.fields)
        _, fields = _identity(model)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: header: {_short(error)}") from error
    _require_agreement(path, header, fields)
    return model


def _require_agreement(path: Path, header: Header, fields: Mapping[str, Any]) -> None:
    """Require that the header says nothing else than the fields of its own model."""
    if header.kind == USER:
        return
    if list(header.shape) != fields["shape"]:
        expected = f"expected {tuple(fields['shape'])}, for which the network is built"
        raise ValueError(f"{path}: shape={header.shape}: {expected}")
    if len(header.classes) != fields["classes"]:
        expected = f"expected {fields['classes']}, one a logit"
        raise ValueError(f"{path}: {len(header.classes)} names of classes: {expected}")


def _require_same(path: Path, wanted: Mapping[str, Tensor], found: Tensors, what: str) -> None:
    """Require the names, shapes and sort of number of ``wanted``."""
    strange = [
        f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for word, names in (
            ("missing", sorted(wanted.keys() - found.keys())),
            ("unexpected", sorted(found.keys() - wanted.keys())),
        )
        if names
    ]
    if strange:
        hint = "the weights are those of another architecture"
        raise ValueError(
            f"{path}: tensors {' and '.join(strange)}: expected those of {what}; {hint}"
        )
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            expected = f"expected {tuple(wanted[name].shape)}, the size of {what}"
            raise ValueError(f"{path}: {name} of shape {tuple(value.shape)}: {expected}")
        numeric = value.dtype in REALS and wanted[name].dtype in REALS
        if not numeric and value.dtype != wanted[name].dtype:
            raise ValueError(f"{path}: {name} of {value.dtype}: expected {wanted[name].dtype}")


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds NaN or infinity: expected finite weights")


def _require_normalisation(path: Path, model: nn.Module, tensors: Tensors) -> None:
    """Require one precision, and the mean and deviation that the header shows to people."""
    precisions = {value.dtype for value in tensors.values() if value.dtype in REALS}
    if precisions not in ({torch.float32}, {torch.float64}):
        found = ", ".join(sorted(map(str, precisions)))
        raise ValueError(f"{path}: tensors of {found}: expected all float32 or all float64")
    _, fields = _identity(model)
    for name in ("mean", "std"):
        kept = tensors[f"normalise.{name}"]
        if not torch.equal(kept.flatten(), torch.tensor(fields[name]).to(kept.dtype)):
            expected = f"expected {fields[name]}, as its header says"
            raise ValueError(f"{path}: normalise.{name} is {kept.flatten().tolist()}: {expected}")


def _fill(path: Path, model: nn.Module, tensors: Tensors) -> None:
    wanted = model.state_dict()
    if not wanted.keys() & tensors.keys():  # a network may itself have a part named "module"
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    _require_same(path, wanted, tensors, "the network given")
    _require_finite(path, tensors)
    model.load_state_dict(tensors)


def _state_dict(path: Path) -> Tensors:
    """Tensors by name from a file of ``torch.save``, by an unpickler that admits nothing else."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a file, found none; check the path")
    hint = "save it as safetensors or as a plain state_dict"
    if zipfile.is_zipfile(path):
        _require_plain_archive(path, hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each comes with the error that is raised below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            marked = file.read(1) in (b"\x80", b"P")  # how a pickle and a zip archive begin
        found = (
            "holds code or other objects, none of which was run" if marked else "is no such file"
        )
        raise ValueError(
            f"{path}: expected tensors of torch.save, but it {found}; {hint}"
        ) from error
    except Exception as error:  # a damaged file fails in any of many ways
        reason = f"damaged, or not of torch.save ({_short(error)})"
        raise ValueError(f"{path}: {reason}; get it again, or {hint}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}: expected a state_dict; {hint}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            found = f"{_short(name)} is a {type(value).__name__}"
            raise ValueError(f"{path}: {found}: expected names and tensors only; {hint}")
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            raise ValueError(
                f"{path}: {name} is sparse, quantised or empty: expected plain numbers"
            )
    return content


def _require_plain_archive(path: Path, hint: str) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: damaged archive ({error}); get it again") from error
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "constants.pkl" in names:
        raise ValueError(f"{path}: holds code (a TorchScript archive): refused; {hint}")
    if "data.pkl" not in names:
        raise ValueError(f"{path}: an archive, but not of torch.save (no data.pkl); {hint}")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        # torch.save never compresses; a few kilobytes could unfold into any amount of memory.
        raise ValueError(f"{path}: a compressed archive: expected one of torch.save; {hint}")


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
    raise ValueError(f"node {_short(node)} of no known sort")


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else f"{text[:200]} ..."
