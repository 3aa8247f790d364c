"""The paper's two networks as plain NumPy forward passes, and the derivative that comes free with them.

No gradient is written by hand. Every function takes complex parameters as well as real ones, so that
`directional_derivative` can differentiate any loss built from them to machine precision: the oracle for every
hand-written backward. Hence the rule of this file: nothing that drops or refuses an imaginary part (abs,
conj, var, logaddexp); maxima and ReLU branch on the real part.

Parameters are flat dicts of float64 arrays, in Flax's shapes, keyed by their Flax path joined with "/".
Letters: n inputs, B batch, T positions, C channels (emb_dim), H heads, D channels of a head, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]  # float64, or complex128 under the complex step
Params = Mapping[str, Array]
Loss = Callable[[dict[str, Array]], Any]
Shape = tuple[int, ...]

STEP = np.complex128(1e-30j)  # a NumPy scalar: float32 parameters are promoted, not the step demoted
TRUNCATED_SD = 0.87962566103423978  # standard deviation of a standard normal cut off at -2 and 2


def directional_derivative(loss: Loss, params: Params, direction: Params) -> float:
    """d/dt loss(params + t direction) at t = 0, as Im loss(params + i h direction) / h with h = 1e-30.

    Exact: the truncation error is O(h^2), far below rounding, and nothing is subtracted, so nothing cancels.
    Cheap: one (complex) forward pass for all parameters at once. At a kink it is the derivative of the branch
    taken; a derivative below 1e-278 underflows to 0. Source: Squire and Trapp 1998.

    params and direction are real, with equal keys and shapes; loss returns one number. Raises ValueError
    where keys, shapes or the loss's shape are otherwise, and TypeError where the loss is real although
    direction is not all zero: the imaginary part was dropped on the way.
    """
    _check_shapes("direction", direction, {name: np.shape(value) for name, value in params.items()})
    value = np.asarray(loss({name: params[name] + STEP * direction[name] for name in params}))
    if value.ndim:
        raise ValueError(f"loss must return one number, got shape {value.shape}")
    if not np.iscomplexobj(value) and any(np.any(v) for v in direction.values()):
        raise TypeError(f"loss must keep the imaginary part of its parameters, got the real number {value}")
    return float(value.imag / STEP.imag)


def _check_shapes(what: str, arrays: Params, shapes: Mapping[str, Shape]) -> None:
    for name in {**shapes, **arrays}:
        got = np.shape(arrays[name]) if name in arrays else "nothing"
        expected = shapes.get(name, "nothing")
        if got != expected:
            raise ValueError(f"{what}[{name!r}] must have shape {expected}, got {got}")


# ----- Pieces -----


def softplus(x: ArrayLike) -> Array:  # [...] -> [...]
    """log(1 + e^x) without overflow. The logistic loss of a margin m is softplus(-m)."""
    x = np.asarray(x)
    positive = x.real > 0
    return np.where(positive, x, 0) + np.log1p(np.exp(np.where(positive, -x, x)))


def log_softmax(x: Array) -> Array:  # [..., V] -> [..., V]
    """x - log sum_v e^x_v, after a shift by the largest real part."""
    x = x - x.real.max(axis=-1, keepdims=True)
    log_sum: Array = np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return x - log_sum


def dense(params: Params, name: str, x: Array) -> Array:  # [..., in] -> [..., out]
    """x W + b."""
    out: Array = x @ params[f"{name}/kernel"] + params[f"{name}/bias"]
    return out


def layer_norm(params: Params, name: str, x: Array) -> Array:  # [..., C] -> [..., C]
    """scale (x - mean) / sqrt(var + 1e-6) + bias. Source: Ba et al. 2016; 1e-6 is Flax's."""
    x = x - x.mean(axis=-1, keepdims=True)
    var = (x * x).mean(axis=-1, keepdims=True)
    out: Array = params[f"{name}/scale"] * x / np.sqrt(var + 1e-6) + params[f"{name}/bias"]
    return out


# ----- The network of the density experiments -----


def mlp(params: Params, x: ArrayLike) -> Array:  # [n] or [n, in] -> [n], or [n, out] where out > 1
    """x <- tanh(x) W + b, layer by layer; the first without tanh. Source: Table 1, 1-64-64-64-64-1.

    params: Dense_0/kernel (in, out), Dense_0/bias (out,), Dense_1/..., as from `mlp_init`; depth and widths
    are theirs. Raises ValueError where x does not fit the first kernel.
    """
    x, d_in = np.asarray(x), len(params["Dense_0/kernel"])
    if x.shape[1:] != (d_in,) and not (x.ndim == 1 == d_in):
        raise ValueError(f"x must have shape (n, {d_in}){' or (n,)' if d_in == 1 else ''}, got {x.shape}")
    x = dense(params, "Dense_0", x.reshape(-1, d_in))
    for i in range(1, len(params) // 2):
        x = dense(params, f"Dense_{i}", np.tanh(x))
    return x[:, 0] if x.shape[1] == 1 else x


def mlp_init(rng: np.random.Generator, widths: Sequence[int] = (1, 64, 64, 64, 64, 1)) -> dict[str, Array]:
    """Parameters for `mlp` as Flax's Dense draws them: zero biases; kernels normal, cut off at two standard
    deviations, with variance 1 / in after the cut ("lecun normal"). Raises ValueError unless widths are two
    or more numbers >= 1."""
    if len(widths) < 2 or min(widths) < 1:
        raise ValueError(f"widths must be two or more numbers >= 1, got {tuple(widths)}")
    params: dict[str, Array] = {}
    for i, (d_in, d_out) in enumerate(pairwise(widths)):
        kernel = rng.standard_normal((d_in, d_out))
        while np.any(outside := kernel * kernel > 4):
            kernel[outside] = rng.standard_normal(np.count_nonzero(outside))
        params[f"Dense_{i}/kernel"] = kernel / (TRUNCATED_SD * math.sqrt(d_in))
        params[f"Dense_{i}/bias"] = np.zeros(d_out)
    return params


# ----- The language model -----


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the language model; the defaults are the paper's (section 5.2). Token 0 is padding.

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
            if value < least:
                raise ValueError(f"{name} must be >= {least}, got {value}")
        if self.qkv_dim % self.num_heads:
            sizes = f"{self.qkv_dim} and {self.num_heads}"
            raise ValueError(f"qkv_dim must be divisible by num_heads, got {sizes}")


def positions(length: int, channels: int) -> Array:  # -> [T, C]
    """sin(t w_k) in channel k, cos(t w_k) in channel K + k, w_k = 10000^(-k / (K - 1)), k < K = C // 2; the
    last channel of an odd C is 0. Source: Vaswani et al. 2017, laid out as in Flax."""
    half = channels // 2
    angle = np.arange(length)[:, None] * np.exp(-math.log(10_000) / (half - 1) * np.arange(half))
    return np.concatenate([np.sin(angle), np.cos(angle), np.zeros((length, channels % 2))], axis=1)


def attention(params: Params, name: str, x: Array, mask: Array) -> Array:  # [B,T,C], [B,T,T] -> [B,T,C]
    """softmax(Q K^T / sqrt(D), where mask) V in every head. A row with an empty mask averages all of V."""
    kernels = (params[f"{name}/{part}/kernel"] for part in ("query", "key", "value"))  # [C, H, D]
    query, key, value = (np.tensordot(x, w, axes=1).swapaxes(1, 2) for w in kernels)  # [B, H, T, D]
    scores = query @ key.swapaxes(2, 3) / math.sqrt(query.shape[3])  # [B, H, T, T]
    weights = np.exp(log_softmax(np.where(mask[:, None], scores, np.finfo(np.float64).min)))
    return np.tensordot((weights @ value).swapaxes(1, 2), params[f"{name}/out/kernel"], axes=2)


def block(params: Params, name: str, x: Array, mask: Array) -> Array:  # [B,T,C], [B,T,T] -> [B,T,C]
    """x <- x + attention(norm(x)), then x <- x + relu(norm(x) W + b) W' + b'."""
    x = x + attention(params, f"{name}/SelfAttention_0", layer_norm(params, f"{name}/LayerNorm_0", x), mask)
    hidden = dense(params, f"{name}/MlpBlock_0/Dense_0", layer_norm(params, f"{name}/LayerNorm_1", x))
    return x + dense(params, f"{name}/MlpBlock_0/Dense_1", np.where(hidden.real > 0, hidden, 0))


def transformer(params: Params, tokens: ArrayLike, config: TransformerConfig) -> Array:  # [B, T] -> [B, T, V]
    """Logits of the pre-LN decoder of the Flax lm1b example, without dropout. Those at t predict token t.

    The input at t is token t - 1, and 0 at the first t. The mask is made from the UNSHIFTED tokens, as in
    that example: t attends to s <= t unless token t or token s is padding. So where token t is not padding,
    the logits at t depend on the tokens before t only; where it is padding, they mean nothing.

    tokens: integers in 0..V-1, 0 = padding; params: as from `transformer_init`. Raises ValueError for other
    tokens, for none, for T > max_len, and where params do not fit config.
    """
    _check_shapes("params", params, transformer_shapes(config))
    tokens = np.asarray(tokens)
    if tokens.ndim != 2 or tokens.size == 0 or not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"tokens must be integers of shape (B, T), got {tokens.dtype}, {tokens.shape}")
    if tokens.shape[1] > config.max_len:
        raise ValueError(f"sequences must be at most max_len = {config.max_len} long, got {tokens.shape[1]}")
    for token in (tokens.min(), tokens.max()):
        if not 0 <= token < config.vocab_size:
            raise ValueError(f"tokens must lie in 0..{config.vocab_size - 1}, got {token}")

    inputs, present = np.pad(tokens[:, :-1], ((0, 0), (1, 0))), tokens > 0
    mask = np.tri(tokens.shape[1], dtype=np.bool_) & present[:, :, None] & present[:, None, :]  # [B, T, T]
    x = params["decoder/Embed_0/embedding"][inputs] + positions(tokens.shape[1], config.emb_dim)  # [B, T, C]
    for i in range(config.num_layers):
        x = block(params, f"decoder/encoderdecoderblock_{i}", x, mask)
    return dense(params, "decoder/logitdense", layer_norm(params, "decoder/encoderdecoder_norm", x))


def sequence_log_likelihood(  # [B, T] -> [B]
    params: Params, tokens: ArrayLike, config: TransformerConfig
) -> Array:
    """log p(x) = sum_t log softmax(logits_t)[x_t] over the tokens that are not padding, in nats.

    Padding has a share of every softmax too: over all sequences of one length without padding, p sums to 1
    only as far as that share is 0. Raises ValueError as `transformer` does, and for a sequence that is all
    padding.
    """
    log_p, tokens = log_softmax(transformer(params, tokens, config)), np.asarray(tokens)
    if np.any(empty := np.all(tokens == 0, axis=1)):
        raise ValueError(f"sequences must not be empty, got only padding in sequence {empty.argmax()}")
    token_log_p = np.take_along_axis(log_p, tokens[:, :, None], axis=2)[:, :, 0]  # [B, T]
    total: Array = token_log_p.sum(axis=1, where=tokens > 0)
    return total


def transformer_shapes(config: TransformerConfig) -> dict[str, Shape]:
    """Name -> shape of all parameters of `transformer`: 49,653,040 numbers at the paper's sizes."""
    channels, heads = config.emb_dim, (config.num_heads, config.qkv_dim // config.num_heads)
    norm: dict[str, Shape] = {"scale": (channels,), "bias": (channels,)}
    layer: dict[str, Shape] = {
        **{f"LayerNorm_{i}/{part}": shape for i in range(2) for part, shape in norm.items()},
        **{f"SelfAttention_0/{part}/kernel": (channels, *heads) for part in ("query", "key", "value")},
        "SelfAttention_0/out/kernel": (*heads, channels),
        "MlpBlock_0/Dense_0/kernel": (channels, config.mlp_dim),
        "MlpBlock_0/Dense_0/bias": (config.mlp_dim,),
        "MlpBlock_0/Dense_1/kernel": (config.mlp_dim, channels),
        "MlpBlock_0/Dense_1/bias": (channels,),
    }
    blocks = [f"decoder/encoderdecoderblock_{i}" for i in range(config.num_layers)]
    return {
        "decoder/Embed_0/embedding": (config.vocab_size, channels),
        **{f"{block}/{part}": shape for block in blocks for part, shape in layer.items()},
        **{f"decoder/encoderdecoder_norm/{part}": shape for part, shape in norm.items()},
        "decoder/logitdense/kernel": (channels, config.vocab_size),
        "decoder/logitdense/bias": (config.vocab_size,),
    }


def transformer_init(rng: np.random.Generator, config: TransformerConfig) -> dict[str, Array]:
    """Parameters for `transformer` as the Flax lm1b example draws them: embedding N(0, 1), kernels uniform
    within +- sqrt(6 / (in + out)) (Glorot and Bengio 2010), biases N(0, 1e-12), layer norms the identity."""
    params: dict[str, Array] = {}
    for name, shape in transformer_shapes(config).items():
        if name.endswith("embedding"):
            params[name] = rng.standard_normal(shape)
        elif name.endswith("kernel"):  # in or out is emb_dim, the other the rest of the shape
            limit = math.sqrt(6 / (config.emb_dim + math.prod(shape) / config.emb_dim))
            params[name] = rng.uniform(-limit, limit, shape)
        elif "Norm" in name or "norm" in name:
            params[name] = np.full(shape, float(name.endswith("scale")))
        else:
            params[name] = 1e-6 * rng.standard_normal(shape)
    return params
