"""`python -m figures NAME...`: computes a figure's numbers, keeps them, and draws the picture from them.

`python -m figures fit FILE` does the same for one's own comparisons, `python -m figures lengths` for Figure 6.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, get_args

from matplotlib.figure import Figure

from accel.checkpoint import whole_file
from accel.minimize import DivergedError
from figures import (
    a2_ipo,
    a2_slic,
    a3_latent,
    exact_targets,
    fig1_reward,
    fig2_dpo,
    fig3_dpo_kl,
    fig4_heatmap,
    fig5_misspecified,
    fig6_lengths,
    fig7_reward_log,
    fig8_geometric,
    own_comparisons,
    style,
)
from figures.numbers import Numbers, Panel, PresetName, Proposal, Settings, load, read_from, save
from reference import NotConvergedError
from reference.command_line.options import add_file_options, add_fit_options, add_test_options, read_graphs
from reference.command_line.parser import Parser, package_version, until_closed
from reference.command_line.report import json_line


class FigureModule(Protocol):
    """What the module of a figure offers. The first line of its docstring stands in the help."""

    __doc__: str | None

    def compute(self, settings: Settings) -> Numbers:
        """The numbers, all of them."""

    def draw(self, numbers: Numbers) -> Figure:
        """The picture of the numbers, computing nothing anew."""


FIGURES: dict[str, FigureModule] = {
    "targets": exact_targets,
    "reward": fig1_reward,
    "reward-log": fig7_reward_log,
    "dpo": fig2_dpo,
    "dpo-kl": fig3_dpo_kl,
    "geometric": fig8_geometric,
    "annotators": fig5_misspecified,
    "latent": a3_latent,
    "heatmap": fig4_heatmap,
    "slic": a2_slic,
    "ipo": a2_ipo,
}


CHOICES = (
    "proposal",
    "preset",
    "ops",
    "seed",
    "infinite",
    "steps",
)  # what belongs to the numbers, not the picture


def _parser() -> Parser:
    known = "\n".join(f"  {name:<10} {(module.__doc__ or '').splitlines()[0]}" for name, module in FIGURES.items())
    parser = Parser(
        prog="python -m figures",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Draws the paper's figures. Each leaves three files in the folder of --out: NAME.json and\n"
        "NAME.npz, the numbers, and NAME.png, which is drawn from them.",
        epilog=f"figures:\n{known}\n  all        every one of them\n"
        "  fit FILE   one's own comparisons; `python -m figures fit --help` says how\n"
        "  lengths [RUN]  Figure 6, of a run of `python -m lm all` (default out/lm-quick)\n\n"
        "examples:\n"
        "  python -m figures reward                        train Figure 1; print how far it is from exact\n"
        "  python -m figures all                           every figure, with the quick preset\n"
        "  python -m figures targets --proposal uniform    the misspecified fit depends on the proposal\n"
        "  python -m figures targets --json | jq .peaks    the same numbers for a program\n\n"
        "exit status: 0, or 2 with one line on stderr; 130 where it was interrupted",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw: see below")
    _add_output_options(parser)
    parser.add_argument("--redraw", action="store_true", help="draw from the numbers in DIR, computing nothing")
    parser.add_argument(
        "--proposal",
        choices=get_args(Proposal),
        help="where both sides of a comparison are drawn from: uniform is what section 4.1 says, pretrained what "
        "the paper's figures show (default: the preset's; pretrained for targets)",
    )
    parser.add_argument(
        "--preset",
        choices=get_args(PresetName),
        help="quick (default): 1,024 support points; paper: 65,536, as the text says; notebook: as the authors' "
        "notebook does",
    )
    parser.add_argument("--ops", choices=("numba", "numpy", "cupy"), help="the backend (default: numba)")
    parser.add_argument("--seed", type=int, help="of comparisons and first parameters (default: 0)")
    parser.add_argument(
        "--infinite",
        action="store_const",
        const=True,
        help="train on all pairs with their probabilities in place of a sample",
    )
    parser.add_argument("--steps", type=int, help="of training (default: the preset's)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; SystemExit(2) after one line on stderr where what was asked for cannot be done, 130 on Ctrl-C."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["fit"]:
        return _main_of_fit(words[1:])
    if words[:1] == ["lengths"]:
        return _main_of_lengths(words[1:])
    parser = _parser()
    asked = parser.parse_args(words)
    known = f"{', '.join(FIGURES)} or all"
    if not asked.names:
        parser.error(f"name a figure: {known}")
    for name in asked.names:
        if name not in (*FIGURES, "all"):
            parser.error(f"figure must be {known}, got {name!r}")
    chosen = {name: getattr(asked, name) for name in CHOICES if getattr(asked, name) is not None}
    if asked.redraw and chosen:
        name, value = next(iter(chosen.items()))
        parser.error(f"--redraw keeps the {name} of the numbers, got --{name} {value}; leave one out")
    try:
        settings = Settings(folder=asked.out, **chosen)
    except ValueError as error:
        parser.error(str(error))
    names = FIGURES if "all" in asked.names else dict.fromkeys(asked.names)
    for name in names:
        try:
            told = run(name, asked, None if asked.redraw else settings)
        except OSError as error:
            parser.error(f"cannot write to {asked.out}: {error.strerror or error}")
        except (ValueError, ImportError, MemoryError, DivergedError) as error:
            parser.error(str(error))
        except KeyboardInterrupt:
            parser.exit(130, "interrupted: the same command goes on from the last checkpoint\n")
        print(told)
    return 0


def _main_of_fit(words: Sequence[str]) -> int:
    parser = Parser(prog="python -m figures fit", description=own_comparisons.__doc__)
    add_file_options(parser)
    parser.add_argument("--group", metavar="VALUE", help="which value of the column --by to draw")
    add_fit_options(parser)
    add_test_options(parser)
    _add_output_options(parser)
    asked = parser.parse_args(words)
    try:
        graphs = read_graphs(asked)
        if (asked.by is None) != (asked.group is None):
            raise ValueError("--by COL and --group VALUE go together: a picture shows one graph")
        if (asked.group or "") not in graphs:
            raise ValueError(f"--group must be one of {', '.join(graphs)}, got {asked.group}")
        name = asked.group or ""
        _check_folder(asked.out)
        save(own_comparisons.compute(asked, name, graphs[name]), asked.out)
    except (ValueError, NotConvergedError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    print(_drawn("fit", own_comparisons.draw, asked))
    return 0


def _main_of_lengths(words: Sequence[str]) -> int:
    parser = Parser(prog="python -m figures lengths", description=fig6_lengths.__doc__)
    parser.add_argument("run", nargs="?", type=Path, default=Path("out/lm-quick"), help="default: %(default)s")
    _add_output_options(parser)
    asked = parser.parse_args(words)
    try:
        _check_folder(asked.out)
        save(fig6_lengths.compute(asked.run), asked.out)
        told = _drawn("lengths", fig6_lengths.draw, asked, fig6_lengths.reading(asked.run))
    except ValueError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")
    print(told)
    return 0


def _add_output_options(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, default=Path("out"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON line a panel in place of the table")


def _drawn(
    name: str,
    draw: Callable[[Numbers], Figure],
    asked: argparse.Namespace,
    reading: AbstractContextManager[None] | None = None,
) -> str:
    """Draws the picture from the numbers kept in --out; what to print of these. reading: deals with wrong ones."""
    numbers, picture = load(name, asked.out), asked.out / f"{name}.png"
    with reading or nullcontext(), style.applied():
        content = style.png(draw(numbers))
        told = json_lines(numbers, picture) if asked.json else table(numbers, picture)
    with whole_file(picture) as file:
        file.write(content)
    return told


def _check_folder(folder: Path) -> None:
    """OSError where it cannot be written to: better refused now than after the computation."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def run(name: str, asked: argparse.Namespace, settings: Settings | None) -> str:
    """Writes NAME.json, NAME.npz and NAME.png; without settings, the picture alone, from the numbers there.

    Either way the picture is drawn from the files. Returns what to print. OSError where the folder cannot be
    written to; ValueError where there are no numbers to draw, or others than this figure's.
    """
    module = FIGURES[name]
    if settings is None:
        wrong = read_from(asked.out / f"{name}.json", "run without --redraw to compute it again")
        return _drawn(name, module.draw, asked, wrong)
    _check_folder(asked.out)
    save(module.compute(settings), asked.out)
    return _drawn(name, module.draw, asked)


def table(numbers: Numbers, picture: Path) -> str:
    """What was computed, one panel a line, and where it is: at most 100 columns but for the last line."""
    settings = ", ".join(
        f"{key.replace('_', ' ')} {value}" for key, value in numbers.settings.items() if value != ""
    )
    lines = textwrap.wrap(
        f"pbde {package_version()}, figures {numbers.name}: {settings}", 100, subsequent_indent="  "
    )
    widths = (
        max(len(panel.panel) for panel in numbers.panels),
        max(len(panel.equation) for panel in numbers.panels),
    )
    shows = "density at x of each peak and dip; probabilities; nats"
    lines.append(f"{'fig':<4} {'panel':<{widths[0]}} {'shows':<{widths[1]}}  {shows}")
    lines += [_row(panel, widths) for panel in numbers.panels]
    return "\n".join([*lines, f"{picture} (numbers: {picture.with_suffix('.json')}, .npz)"])


def _row(panel: Panel, widths: tuple[int, int]) -> str:
    start = f"{panel.figure:<4} {panel.panel:<{widths[0]}} {panel.equation:<{widths[1]}}  "
    distances = (("TV", panel.tv), ("KL", panel.kl))
    found = [f"{name} {value:.4f}" for name, value in distances if value is not None]
    found += [f"{peak.height:.4f} at {peak.x:.2f}" for peak in panel.peaks]
    found += [f"dip {dip.height:.4f} at {dip.x:.2f}" for dip in panel.dips]
    found += [f"{name} {value:.4f}" for name, value in panel.values.items()]
    found += [] if panel.seconds is None else [f"{panel.seconds:.1f} s"]
    text = "   ".join(item.replace(" ", "\0") for item in found)
    rows = textwrap.wrap(text, 100, initial_indent=start, subsequent_indent=" " * len(start))
    return "\n".join(rows).replace("\0", " ")


def json_lines(numbers: Numbers, picture: Path) -> str:
    """One JSON object a panel: the panel's own keys, the settings, and the picture it is in."""
    common = {"settings": numbers.settings, "picture": str(picture)}
    return "\n".join(json_line(asdict(panel) | common) for panel in numbers.panels)


if __name__ == "__main__":
    sys.exit(until_closed(main))
