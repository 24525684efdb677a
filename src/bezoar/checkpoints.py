"""Models on disk: safetensors with one JSON header, never a pickle.

Whatever is read is a stranger's until it is checked: the header, the sizes that it promises, the
names and shapes of the tensors, their values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor, nn

from bezoar import checks, tensorfiles, weights
from bezoar.models import JOINED, MODELS, PARTS
from bezoar.tensorfiles import KEY, Tensors

KINDS = {**MODELS, **PARTS, **JOINED}
USER = "user"  # kind of a network that a user's own factory makes

REALS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Part(BaseModel):
    """A module and what is inside of it, checked for form only.

    Attributes:
        kind: name in ``MODELS``, ``PARTS`` or ``JOINED``.
        fields: arguments that it is built with.
        children: the parts that it joins, by the names of its other arguments.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    kind: str
    fields: dict[str, JsonValue]
    children: dict[str, "Part"] = {}


class Header(Part):
    """What a model file says of its model, checked for form only.

    Attributes:
        format: version of this layout.
        kind: name in ``MODELS`` or ``JOINED``, or ``"user"``.
        classes: name of each class, as many as the model has logits.
        shape: channels, height and width of an image.
        training: record of how the weights came about.
    """

    format: Literal[1] = 1
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
    part = _identity(model)
    if part["kind"] == USER and shape is None:
        raise ValueError("shape=None: expected (C, H, W) of the images for a network of your own")
    head = {
        "format": 1,
        **part,
        "classes": list(classes),
        "shape": list(_classifier(model).fields["shape"] if shape is None else shape),
        "training": dict(training or {}),
    }
    text = tensorfiles.encoded(path, head)
    _require_agreement(path, _header(path, {KEY: text}), model)
    state = model.state_dict()
    _require_finite(path, state)
    tensorfiles.write(path, state, text)


def header(path: Path) -> Header:
    """Read what a model file says of its model, without building it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a model file of bezoar, damaged, or made by a newer version.
    """
    with tensorfiles.opened(path) as file:
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
    with tensorfiles.opened(path) as file:
        head = _header(path, file.metadata())
        tensors = tensorfiles.read(file)
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
        with tensorfiles.opened(path) as file:
            _fill(path, model, tensorfiles.read(file))
    elif path.suffix in (".pt", ".pth", ".bin"):
        _fill(path, model, weights.state_dict(path))
    else:
        raise ValueError(f"{path}: expected a file .safetensors, .pt, .pth or .bin")


def _identity(model: nn.Module) -> dict[str, Any]:
    """Kind, fields and children; what has a part of someone's own inside is someone's own."""
    user = {"kind": USER, "fields": {}, "children": {}}
    for kind, cls in KINDS.items():
        if type(model) is cls:
            inside = model.named_children() if kind in JOINED else ()
            children = {name: _identity(child) for name, child in inside}
            if user in children.values():
                return user
            return {"kind": kind, "fields": model.fields, "children": children}
    return user


def _classifier(model: Any) -> Any:
    """The network inside of what joins it with others: it knows the shape and the classes."""
    return _classifier(model.network) if type(model) in JOINED.values() else model


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
            f"{path}: {name}: {first['msg']}, found {tensorfiles.short(first['input'])}{hint}"
        ) from error


def _planned(path: Path, header: Header) -> nn.Module:
    """The network of a header on the meta device: names and shapes, no memory."""
    if header.kind == USER:
        hint = "give its factory, --model module:function, and this file as --weights"
        raise ValueError(f"{path}: holds weights of a network of someone's own; {hint}")
    try:
        checks.known("model", header.kind, {**MODELS, **JOINED})
        with torch.device("meta"):
            model = _built(header)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{path}: header: {tensorfiles.short(error)}") from error
    _require_agreement(path, header, model)
    return model


def _built(part: Part) -> nn.Module:
    checks.known("part", part.kind, KINDS)
    if part.children and part.kind not in JOINED:
        found = f"children {tensorfiles.short(sorted(part.children))} of {part.kind}"
        raise ValueError(f"{found}: expected none")
    children = {name: _built(child) for name, child in part.children.items()}
    return KINDS[part.kind](**part.fields, **children)


def _require_agreement(path: Path, header: Header, model: nn.Module) -> None:
    """Require that the header says nothing else than the fields of its own model."""
    if header.kind == USER:
        return
    network = _classifier(model)
    if type(network) not in MODELS.values():
        found = f"header: {header.kind} of {type(network).__name__}"
        raise ValueError(f"{path}: {found}: expected one of a network with logits")
    fields = network.fields
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
    for prefix, module in model.named_modules(prefix="."):
        if type(module) not in MODELS.values():
            continue
        fields: Any = module.fields
        for name in ("mean", "std"):
            place = f"{prefix}.normalise.{name}".lstrip(".")
            kept = tensors[place]
            if not torch.equal(kept.flatten(), torch.tensor(fields[name]).to(kept.dtype)):
                expected = f"expected {fields[name]}, as its header says"
                raise ValueError(f"{path}: {place} is {kept.flatten().tolist()}: {expected}")


def _fill(path: Path, model: nn.Module, tensors: Tensors) -> None:
    wanted = model.state_dict()
    if not wanted.keys() & tensors.keys():  # a network may itself have a part named "module"
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    _require_same(path, wanted, tensors, "the network given")
    _require_finite(path, tensors)
    model.load_state_dict(tensors)
