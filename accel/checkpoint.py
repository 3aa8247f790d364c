"""Checkpoints: named arrays and a JSON description in one .npz file, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

DAY = 86_400.0  # seconds: no folder takes so long to fill
ABOUT = "about"  # the entry that holds the description


class CheckpointError(ValueError):
    """A checkpoint file that cannot be read, or that belongs to another run."""


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which is path once the block ends: a reader sees the old file or the new one, never a part.

    The bytes go to PATH.PID-THREAD.tmp, are forced to the disk, and take the name in one step (rename). A block
    that fails, or a run that is killed in it, leaves path as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{get_ident()}.tmp")  # no other writer's
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is path once the block ends; where another writer was faster, path is that one's.

    Files go to PATH.PID-THREAD.tmp, which then takes the name in one step. A block that fails leaves nothing; what
    a run left that was killed in it goes a DAY later, for it could be another writer's.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{get_ident()}.tmp")  # no other writer's
    for found in path.parent.glob(f"{path.name}.*.tmp"):
        if found == temporary or time.time() - found.stat().st_mtime > DAY:
            shutil.rmtree(found, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        try:
            os.replace(temporary, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def save(path: str | Path, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> None:
    """Write arrays and about (JSON) to path, by `whole_file`. ValueError for an array called "about" or "file",
    and for arrays of Python objects."""
    path = Path(path)
    for name in (ABOUT, "file"):  # the second is NumPy's own argument
        if name in arrays:
            raise ValueError(f'no array may be called "{name}"')
    check_numbers(arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    described = json.dumps({"about": dict(about), "arrays": list(arrays)}, default=_plain)
    description = np.frombuffer(described.encode(), dtype=np.uint8)
    entries: dict[str, Any] = {ABOUT: description, **arrays}
    with whole_file(path) as file:
        np.savez(file, **entries)


def check_numbers(arrays: Mapping[str, NDArray[Any]]) -> None:
    """ValueError for an array of Python objects, which NumPy's files would hold as pickles."""
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name} must hold numbers, got {array.dtype}")


def load(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays and the description that `save` wrote, checked against the file's CRCs.

    CheckpointError for a torn, damaged or foreign file; OSError where there is none or it may not be read.
    """
    with Path(path).open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as entries:
                arrays = {name: entries[name] for name in entries.files}
            described = json.loads(arrays.pop(ABOUT).tobytes())
            about: dict[str, Any] = dict(described["about"])
            if described["arrays"] != list(arrays):
                raise KeyError("arrays")  # damage to a zip's directory can hide whole entries
        except Exception as error:  # a damaged zip can fail in a dozen ways; all mean the same here
            raise CheckpointError(
                f"{path} is not a whole checkpoint ({type(error).__name__}): it was torn or damaged; "
                "delete it to start again, or use an older copy"
            ) from None
    return arrays, about


def check_same_run(path: str | Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """CheckpointError, naming the first difference, unless the checkpoint's description fits this run."""
    for name in {**expected, **found}:
        there, here = found.get(name, "nothing"), expected.get(name, "nothing")
        if there != here:
            raise CheckpointError(
                f"{path} belongs to another run: {name} is {there} there and {here} here; "
                "give another checkpoint file, or the same settings"
            )


def fingerprint(*values: Any) -> str:
    """A short SHA-256 of arrays, dataclasses, sequences, functions (by name) and plain values: equal data, equal
    text. Arrays count by dtype, shape and bytes."""
    digest = hashlib.sha256()
    for value in values:
        _feed(digest, value)
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any) -> None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        digest.update(f"{type(value).__qualname__}(".encode())
        for field in dataclasses.fields(value):
            digest.update(f"{field.name}=".encode())
            _feed(digest, getattr(value, field.name))
    elif isinstance(value, Mapping):
        _feed(digest, list(value.items()))
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}[".encode())
        for item in value:
            _feed(digest, item)
    elif hasattr(value, "dtype") and hasattr(value, "shape"):
        array = np.ascontiguousarray(value.get() if hasattr(value, "get") else value)
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    elif callable(value):
        digest.update(getattr(value, "__name__", type(value).__qualname__).encode())
    else:
        digest.update(f"{type(value).__name__}:{value!r};".encode())


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"about must hold plain values, got {type(value).__name__}")


def _sync_folder(folder: Path) -> None:
    """Force the rename itself to the disk; systems that cannot open folders (Windows) do without."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
