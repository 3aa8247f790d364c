"""The language model's sizes and parameters: names and shapes as in the Flax lm1b example, first values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel import buffers
from accel.arrays import check_integer, real_array
from accel.buffers import Array

Params = Mapping[str, Array]
Shape = tuple[int, ...]

EMBEDDING, OUTPUT, NORM = "decoder/Embed_0/embedding", "decoder/logitdense", "decoder/encoderdecoder_norm"
PROJECTIONS = ("query", "key", "value")
MLP = (
    "LayerNorm_1/scale",
    "LayerNorm_1/bias",
    *(f"MlpBlock_0/Dense_{i}/{part}" for i in range(2) for part in ("kernel", "bias")),
)


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the language model; the defaults are the paper's (section 5.2).

    Raises ValueError for a size below its least value (emb_dim: 4, as the position table needs two
    frequencies), and where num_heads does not divide qkv_dim.
    """

    vocab_size: int = 30_000
    emb_dim: int = 512
    num_heads: int = 8
    num_layers: int = 6
    qkv_dim: int = 512
    mlp_dim: int = 2048
    max_len: int = 512

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = {"vocab_size": 2, "emb_dim": 4}.get(name, 1)
            check_integer(name, value, least)
        if self.qkv_dim % self.num_heads:
            sizes = f"{self.qkv_dim} and {self.num_heads}"
            raise ValueError(f"qkv_dim must be divisible by num_heads, got {sizes}")


# ----- Parameters -----


@lru_cache(maxsize=16)
def transformer_shapes(config: TransformerConfig) -> Mapping[str, Shape]:
    """Name -> shape of all parameters, in the order of the flat buffer. Do not change the result."""
    c, v = config.emb_dim, config.vocab_size
    shapes: dict[str, Shape] = {EMBEDDING: (v, c)}
    for layer in range(config.num_layers):
        shapes |= {f"{layer_name(layer)}/{part}": shape for part, shape in layer_shapes(config).items()}
    shapes |= {f"{NORM}/scale": (c,), f"{NORM}/bias": (c,)}
    return shapes | {f"{OUTPUT}/kernel": (c, v), f"{OUTPUT}/bias": (v,)}


def layer_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Name -> shape of the parameters of one layer."""
    c, m, heads = config.emb_dim, config.mlp_dim, (config.num_heads, config.qkv_dim // config.num_heads)
    return {
        "LayerNorm_0/scale": (c,),
        "LayerNorm_0/bias": (c,),
        "LayerNorm_1/scale": (c,),
        "LayerNorm_1/bias": (c,),
        "SelfAttention_0/query/kernel": (c, *heads),
        "SelfAttention_0/key/kernel": (c, *heads),
        "SelfAttention_0/value/kernel": (c, *heads),
        "SelfAttention_0/out/kernel": (*heads, c),
        "MlpBlock_0/Dense_0/kernel": (c, m),
        "MlpBlock_0/Dense_0/bias": (m,),
        "MlpBlock_0/Dense_1/kernel": (m, c),
        "MlpBlock_0/Dense_1/bias": (c,),
    }


def layer_name(layer: int) -> str:
    """The Flax path of a layer's parameters."""
    return f"decoder/encoderdecoderblock_{layer}"


def layer_params(params: Params, layer: int) -> dict[str, Array]:
    """The parameters of one layer, under the names of `layer_shapes`."""
    path = f"{layer_name(layer)}/"
    return {name.removeprefix(path): value for name, value in params.items() if name.startswith(path)}


def transformer_init(
    rng: np.random.Generator, config: TransformerConfig, dtype: str = "float32"
) -> dict[str, NDArray[Any]]:
    """Views of a new flat buffer, drawn as the Flax lm1b example draws them: embedding N(0, 1), kernels uniform
    within +- sqrt(6 / (in + out)) (Glorot and Bengio 2010), biases N(0, 1e-12), layer norms the identity."""
    shapes = transformer_shapes(config)
    params = buffers.views(np.zeros(buffers.size(shapes), dtype), shapes)
    for name, value in params.items():
        if name == EMBEDDING:
            value[...] = rng.standard_normal(value.shape)
        elif name.endswith("/kernel"):  # one of in and out is emb_dim, the other the rest of the shape
            limit = math.sqrt(6 / (config.emb_dim + value.size // config.emb_dim))
            value[...] = rng.uniform(-limit, limit, value.shape)
        elif name.endswith("/scale"):
            value[...] = 1.0
        elif "orm" not in name.split("/")[-2]:  # LayerNorm_0, LayerNorm_1 and encoderdecoder_norm keep their 0
            value[...] = 1e-6 * rng.standard_normal(value.shape)
    return params


def check_params(params: Params, config: TransformerConfig) -> None:
    """ValueError unless params have the names and shapes of config, in that order."""
    shapes = transformer_shapes(config)
    if list(params) != list(shapes):
        wrong = sorted(params.keys() ^ shapes.keys()) or "another order"
        raise ValueError(f"params must be those of transformer_shapes(config), in its order, got {wrong}")
    for name, shape in shapes.items():
        real_array(f"params[{name!r}]", params[name], shape)


@lru_cache(maxsize=16)
def positions(max_len: int, channels: int) -> NDArray[np.float64]:
    """(max_len, C): sin(t w_k) in channel k < K = C // 2, cos(t w_k) in K + k, w_k = 10000^(-k / (K - 1)).

    The last channel of an odd C is 0. Vaswani et al. 2017, laid out as in Flax. Read-only.
    """
    half = channels // 2
    angle = np.arange(max_len)[:, None] * 10_000.0 ** (-np.arange(half) / (half - 1))
    table = np.zeros((max_len, channels))
    table[:, :half], table[:, half : 2 * half] = np.sin(angle), np.cos(angle)
    table.setflags(write=False)
    return table
