"""Strangers' weights in files of ``torch.save``, read without running anything in them."""

import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from bezoar.tensorfiles import Tensors, short


def state_dict(path: Path) -> Tensors:
    """Tensors by name from a file of ``torch.save``, by an unpickler that admits nothing else.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it holds code, or something else than a state dict, or is damaged.
    """
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
        reason = f"damaged, or not of torch.save ({short(error)})"
        raise ValueError(f"{path}: {reason}; get it again, or {hint}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}: expected a state_dict; {hint}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            found = f"{short(name)} is a {type(value).__name__}"
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
