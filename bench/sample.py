"""Drawing sequences from the language model, timed in tokens a second.

The end token is made impossible, so that everybody writes the same number of tokens: count times length. Random
numbers differ between frameworks, so what is compared is what was drawn: its log-likelihoods as the loop gave them
against the network's on whole sequences, and their mean between the frameworks.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from accel import Ops
from accel.sampling import draw
from accel.streams import stream
from accel.transformer import EMBEDDING, OUTPUT, TransformerConfig, layer_name, log_likelihood, positions
from bench.lm import CONFIGS, first_params, flops_of_a_token
from bench.lm_peers import peer_params, torch_block, torch_logits
from bench.peers import import_peer
from bench.report import Commands, add_command, check_least, chosen_ops, print_lines, refused, versions
from bench.streams import Purpose
from bench.timing import PAUSE, product_rate

Drawn = tuple[NDArray[np.int64], NDArray[np.float64]]  # tokens (count, T), log-likelihoods (count,)

EOS = 2
LOOP = 64 * 2.0**-24  # a log-likelihood by the loop against the whole network: roundings of its terms, relative
SPREAD = 5.0  # standard errors between the mean log-likelihoods of two frameworks


@dataclass
class Sampler:
    """run(turn) draws all sequences, with random numbers of that turn."""

    name: str
    run: Callable[[int], Drawn]
    drawn: Drawn | None = None
    seconds: list[float] = field(default_factory=list)


def endless(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same parameters, but that neither padding nor the end token is ever drawn."""
    params[f"{OUTPUT}/bias"][[0, EOS]] = -1e4
    return params


def ours(
    ops: Ops, params: Mapping[str, Any], config: TransformerConfig, count: int, batch: int, seed: int
) -> Sampler:
    """This project's loop, `batch` sequences at a time."""

    def run(turn: int) -> Drawn:
        rng = stream(seed, Purpose.DRAWING, turn)
        sizes = [min(batch, count - start) for start in range(0, count, batch)]
        parts = [draw(ops, params, config, size, rng, config.max_len, EOS) for size in sizes]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    return Sampler(f"accel {ops.name}", run)


def in_torch(params: Mapping[str, Any], config: TransformerConfig, count: int, threads: int, seed: int) -> Sampler:
    """The plain loop in PyTorch: all sequences at once, keys and values kept in one array, no gradient."""
    torch = import_peer("torch")
    torch.set_num_threads(threads)
    p = {name: torch.tensor(value) for name, value in peer_params(params, config).items()}
    place = torch.tensor(positions(config.max_len, config.emb_dim)).float()
    heads, channels = config.num_heads, config.qkv_dim // config.num_heads
    store = torch.empty(config.num_layers, 2, count, heads, config.max_len, channels)

    def attend(layer: int, t: int, qkv: Any) -> Any:
        query, key, value = qkv.view(count, 3, heads, 1, channels).unbind(1)
        store[layer, 0, :, :, t : t + 1], store[layer, 1, :, :, t : t + 1] = key, value
        past = store[layer, :, :, :, : t + 1]
        return torch.nn.functional.scaled_dot_product_attention(query, past[0], past[1]).reshape(count, -1)

    def run(turn: int) -> Drawn:
        generator = torch.Generator().manual_seed(1000 * seed + turn)
        tokens, log_p = torch.zeros(count, config.max_len, dtype=torch.long), torch.zeros(count).double()
        last = torch.zeros(count, dtype=torch.long)
        with torch.inference_mode():
            for t in range(config.max_len):
                x = p[EMBEDDING][last] + place[t]
                for i in range(config.num_layers):
                    x = torch_block(torch, p, layer_name(i), x, lambda qkv, i=i, t=t: attend(i, t, qkv))
                weights = torch.softmax(torch_logits(torch, p, x), dim=1)
                last = torch.multinomial(weights, 1, generator=generator)[:, 0]
                tokens[:, t] = last
                log_p += torch.log(weights.gather(1, last[:, None])[:, 0])
        return tokens.numpy(), log_p.numpy()

    return Sampler(f"torch {torch.__version__}", run)


def disagreement(
    samplers: list[Sampler], ops: Ops, params: Mapping[str, Any], config: TransformerConfig
) -> str | None:
    """The line that says whose log-likelihoods are not those of what was drawn, or whose mean differs; or None."""
    means, errors = [], []
    for sampler in samplers:
        assert sampler.drawn is not None
        tokens, log_p = sampler.drawn
        exact = log_likelihood(ops, params, tokens, config)
        worst = float(np.abs(log_p / exact - 1).max())
        if not worst <= LOOP:
            return f"{sampler.name}: log-likelihoods of the loop and the network differ by {worst:.1e}, relative"
        means.append(exact.mean())
        errors.append(exact.std() / math.sqrt(len(exact)))
    for sampler, mean, error in zip(samplers[:-1], means, errors, strict=False):
        if not abs(mean - means[-1]) <= SPREAD * math.hypot(error, errors[-1]):
            return (
                f"mean log-likelihoods differ: {means[-1]:.4f} ({samplers[-1].name}), {mean:.4f} ({sampler.name})"
            )
    return None


# ----- The command -----

HELP = """\
Times the drawing of sequences, token by token with kept keys and values, at temperature 1 over the full
vocabulary. The end token is never drawn: all write count times length tokens (tiny: 32, small: 50).

With --peers PyTorch's plain loop draws as many, in turns. The times count only where each one's log-likelihoods
are those of the whole network on what it drew, and their means agree. The floor is the time of the matrix products
at the BLAS's own rate on large matrices.

examples:
  python -m bench sample --config small --count 1024 --peers
"""


def add_sample(commands: Commands) -> None:
    command = add_command(commands, "sample", "drawing from the language model", HELP, 0)
    command.add_argument("--config", choices=list(CONFIGS), default="small", help="sizes (default small)")
    command.add_argument("--count", type=int, default=1024, metavar="N", help="sequences (default 1024)")
    command.add_argument("--batch", type=int, default=1024, metavar="B", help="ours at a time (default 1024)")
    command.add_argument("--turns", type=int, default=5, help="timed turns of each (default 5)")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Checks, times and prints; the exit status."""
    check_least(arguments, count=2, batch=1, turns=1, threads=1, seed=0)
    threads, ops, count, seed = arguments.threads, chosen_ops(arguments), arguments.count, arguments.seed
    config, _ = CONFIGS[arguments.config]
    params, samplers, missing = endless(first_params(config, seed)), [], []
    if arguments.peers:
        try:
            samplers.append(in_torch(params, config, count, threads, seed))
        except ImportError as error:
            missing.append(str(error))
    samplers.append(ours(ops, params, config, count, arguments.batch, seed))
    with threadpool_limits(threads, user_api="blas"):
        for turn in range(arguments.turns + 1):  # the first compiles and is checked, and not timed
            for sampler in samplers:
                time.sleep(PAUSE)
                start = time.perf_counter()
                drawn = sampler.run(turn)
                if turn:
                    sampler.seconds.append(time.perf_counter() - start)
                else:
                    sampler.drawn = drawn
        rate = product_rate()
        problem = disagreement(samplers, ops, params, config)
    if refused(problem):
        return 1
    tokens = count * config.max_len
    floor = tokens * flops_of_a_token(config, (config.max_len + 1) / 2) / rate
    rows = [as_row(sampler, samplers[-1], tokens, floor) for sampler in samplers]
    if arguments.json:
        print_lines(rows, missing)
        return 0
    what = f"{arguments.config}, {count:,} sequences of {config.max_len}"
    print(f"{what}; {threads} thread{'s' * (threads > 1)}, seed {seed}; {versions()}\n")
    print(f"{'':<18}{'tokens/s':>10}{'s':>9}{'fastest':>9}{'slowest':>9}{'to floor':>10}{'ours/its':>10}")
    for row in rows:
        times = "".join(f"{row[name]:>9.3f}" for name in ("median_s", "min_s", "max_s"))
        print(
            f"{row['name']:<18}{row['tokens_per_s']:>10,.0f}{times}{row['to_floor']:>10.2f}{row['speedup']:>10.2f}"
        )
    print(f"\nfloor {floor:.3f} s, {tokens / floor:,.0f} tokens/s: products at {rate / 1e9:.0f} GFLOP/s")
    for line in missing:
        print(line)
    return 0


def as_row(sampler: Sampler, ours: Sampler, tokens: int, floor: float) -> dict[str, Any]:
    """What --json prints. loss: nats a token; speedup: our tokens a second over this one's."""
    median = float(np.median(sampler.seconds))
    assert sampler.drawn is not None
    return {
        "name": sampler.name,
        "tokens_per_s": tokens / median,
        "median_s": median,
        "min_s": min(sampler.seconds),
        "max_s": max(sampler.seconds),
        "loss": -float(sampler.drawn[1].sum()) / tokens,
        "floor_s": floor,
        "to_floor": median / floor,
        "speedup": median / float(np.median(ours.seconds)),
    }
