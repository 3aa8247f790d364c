"""Flax checkpoints of the lm1b decoder (msgpack, as flax.serialization writes them) to our parameters and back.

The format: a msgpack tree of maps; an array is an extension of type 1 (type 3: a scalar) that holds, as msgpack
again, its shape, the name of its dtype and its bytes. Large arrays come as a map of flat chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel import buffers
from accel.checkpoint import CheckpointError, whole_file
from accel.transformer_params import EMBEDDING, TransformerConfig, check_params, layer_name, transformer_shapes

ARRAY, SCALAR = 1, 3  # Flax's extension types; 2 is a complex number
CHUNKED = "__msgpack_chunked_array__"
PLACES = ("", "params/", "params/params/", "optimizer/target/", "optimizer/target/params/", "target/")
Leaves = dict[str, NDArray[Any]]


def read_flax(
    path: str | Path, config: TransformerConfig | None = None, max_len: int = 512
) -> tuple[dict[str, NDArray[np.float32]], TransformerConfig]:
    """The parameters of a Flax checkpoint as float32 views of one flat buffer, and the sizes of the model.

    The tree may be the parameters alone, {"params": ...}, a TrainState, or an old Flax optimizer. config: what the
    sizes must be; without it they are read off the arrays, and max_len, which no array tells, is as given.
    CheckpointError for a file that is torn or no Flax checkpoint, and for another architecture: the first tensor
    that differs is named. OSError where the file cannot be read; ImportError where msgpack is missing.
    """
    leaves = _parameters(path, _arrays(path))
    config = _inferred(path, leaves, max_len) if config is None else config
    shapes = transformer_shapes(config)
    for name in [*shapes, *leaves]:
        _check(path, name, leaves.get(name), shapes.get(name))
    params = buffers.views(np.empty(buffers.size(shapes), np.float32), shapes)
    for name, value in params.items():
        value[...] = leaves[name]
    return params, config


def write_flax(path: str | Path, params: Mapping[str, NDArray[Any]], config: TransformerConfig) -> None:
    """Write params (on the host) as {"params": tree}, for flax.serialization.msgpack_restore or from_bytes.

    A reader sees the old file or the new one. ValueError where params do not fit config.
    """
    check_params(params, config)
    tree: dict[str, Any] = {}
    for name, value in params.items():
        *folders, leaf = name.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        packed = _msgpack().packb((value.shape, value.dtype.name, value.tobytes()))
        inner[leaf] = _msgpack().ExtType(ARRAY, packed)
    with whole_file(Path(path)) as file:
        file.write(_msgpack().packb({"params": tree}))


def _arrays(path: str | Path) -> Leaves:
    """All arrays of a file by their paths."""
    msgpack, raw = _msgpack(), Path(path).read_bytes()
    try:
        return dict(_flat(msgpack.unpackb(raw, ext_hook=_extension, raw=False, strict_map_key=False)))
    except Exception as error:  # foreign bytes can fail as lengths, text, types or extensions
        if "incomplete input" in str(error):
            raise CheckpointError(
                f"{path} is truncated: it breaks off at {len(raw):,} bytes; copy it again"
            ) from None
        raise CheckpointError(f"{path} must be a Flax checkpoint, it is no msgpack of arrays ({error})") from None


def _extension(kind: int, raw: bytes) -> Any:
    """An array or scalar; None for what has no array, as complex numbers."""
    if kind not in (ARRAY, SCALAR):
        return None
    shape, dtype, data = _msgpack().unpackb(raw, raw=True)
    if dtype == b"bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return np.frombuffer(data, np.dtype(dtype.decode())).reshape(shape)


def _flat(tree: Any, path: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """The arrays of a tree by their paths; chunks are put together."""
    if isinstance(tree, dict) and CHUNKED in tree:
        shape, chunks = ([tree[part][str(i)] for i in range(len(tree[part]))] for part in ("shape", "chunks"))
        yield path, np.concatenate(chunks).reshape(shape)
    elif isinstance(tree, dict):
        for name, inner in tree.items():
            yield from _flat(inner, f"{path}/{name}" if path else str(name))
    elif isinstance(tree, np.ndarray):
        yield path, tree


def _parameters(path: str | Path, arrays: Leaves) -> Leaves:
    """The parameters among all arrays (steps and moments of an optimizer aside), under our names."""
    for place in PLACES:
        found = {name.removeprefix(place): value for name, value in arrays.items() if name.startswith(place)}
        if EMBEDDING in found:
            return found
    names = ", ".join(list(arrays)[:3]) or "no array"
    raise CheckpointError(f"{path} must hold an lm1b decoder, {EMBEDDING} among its arrays, got {names}")


def _inferred(path: str | Path, leaves: Leaves, max_len: int) -> TransformerConfig:
    """The sizes, from the tensors that tell them."""
    num_layers = 0
    while any(name.startswith(f"{layer_name(num_layers)}/") for name in leaves):
        num_layers += 1
    told = {
        EMBEDDING: 2,
        f"{layer_name(0)}/SelfAttention_0/query/kernel": 3,
        f"{layer_name(0)}/MlpBlock_0/Dense_0/kernel": 2,
    }
    for name, dimensions in told.items():
        if name not in leaves or leaves[name].ndim != dimensions:
            shape = leaves[name].shape if name in leaves else "nothing"
            raise CheckpointError(
                f"{path} has another architecture: {name} must have {dimensions} axes, got {shape}"
            )
    (vocab_size, emb_dim), (_, num_heads, channels), (_, mlp_dim) = (leaves[name].shape for name in told)
    return TransformerConfig(vocab_size, emb_dim, num_heads, num_layers, num_heads * channels, mlp_dim, max_len)


def _check(path: str | Path, name: str, value: NDArray[Any] | None, shape: tuple[int, ...] | None) -> None:
    """CheckpointError unless value, found under a name, is a tensor of floats of the shape expected there."""
    if value is None or value.shape != shape:
        must = f"must have shape {shape}" if shape is not None else "must not be there"
        found = "nothing" if value is None else value.shape
        raise CheckpointError(f"{path} has another architecture: {name} {must}, got {found}")
    if not np.issubdtype(value.dtype, np.floating):
        raise CheckpointError(f"{path} must hold floats, {name} is {value.dtype}")


def _msgpack() -> Any:
    """The package; ImportError with the install line where it is missing."""
    try:
        import msgpack
    except ImportError:
        raise ImportError("Flax checkpoints need msgpack; pip install 'pbde[text]'") from None
    return msgpack
