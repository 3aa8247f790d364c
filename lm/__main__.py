"""The command line: `python -m lm pretrain | sample | table2 | adapt | figure6 | all`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from accel.minimize import out_of_memory
from lm.corpora.corpus import GRAMMAR
from lm.presets import PresetName
from lm.report import STAGES
from lm.run import Experiment, Settings
from reference.command_line.parser import Parser, package_version, until_closed
from reference.command_line.report import json_line

STAGE_HELP = """\
stages (each runs those before it, where their results are not in the folder yet)
  pretrain  three language models, of whole sentences, of short and of long ones; how far from the exact law
  sample    what each of them writes
  table2    Table 2: how often they prefer short sentences to long ones, by Eq. 9 and Eq. 12
  adapt     whole, adapted on preferences by two annotators (Eq. 22) and by one of both tastes (Eq. 23)
  figure6   Figure 6: the lengths that they write before and after; `python -m figures lengths` draws them
  all       all of them

A run that is stopped, by Ctrl-C or worse, goes on where it was when it is started again.

examples:
  python -m lm all                                the embedded grammar, whose laws are known exactly
  python -m lm all --corpus sentences.txt.gz      one's own text, a sentence a line
  python -m lm pretrain --corpus 1-billion-word-language-modeling-benchmark-r13output --preset paper

exit status: 0; 1 where a claim of section 5.2 does not come out (figure6, grammar); 2 with one line on stderr
"""


def build_parser() -> Parser:
    """The parser of all stages."""
    parser = Parser(
        prog="python -m lm",
        description="The language-model experiment of section 5.2: annotators who like short or long sentences.",
        epilog=STAGE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=[*STAGES, "all"], metavar="STAGE", help=f"{', '.join(STAGES)} or all")
    parser.add_argument(
        "--corpus",
        default=GRAMMAR,
        metavar="PATH",
        help="grammar (default), or text, a sentence a line: a file, plain or gzip, or a folder of them",
    )
    parser.add_argument(
        "--preset",
        choices=get_args(PresetName),
        default="quick",
        help="quick (default): minutes on two cores; paper: the paper's sizes, days without a GPU",
    )
    parser.add_argument(
        "--ops", choices=("numba", "numpy", "cupy"), default="numba", help="backend (default numba)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument("--vocab-size", type=int, metavar="N", help="of text: pieces, at most 30,000 by default")
    parser.add_argument("--sentencepiece", type=Path, metavar="MODEL", help="of text: a model file to use")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the run is kept (default out/lm-PRESET)")
    parser.add_argument("--json", action="store_true", help="print JSON lines in place of tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status; SystemExit(2) after one line on stderr where what was asked for cannot be done."""
    parser = build_parser()
    asked = parser.parse_args(argv)
    folder = asked.out or Path("out") / f"lm-{asked.preset}"
    try:
        settings = Settings(
            folder, asked.corpus, asked.preset, asked.ops, asked.seed, asked.vocab_size, asked.sentencepiece
        )
        return run(Experiment(settings), list(STAGES) if asked.stage == "all" else [asked.stage], asked.json)
    except (ValueError, ImportError, RuntimeError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename or folder}: {error.strerror or error}")
    except MemoryError as error:
        cure = "take --preset quick, or for text a smaller --vocab-size"
        parser.error(out_of_memory(error, f"{cure}; what is done is kept in {folder}"))
    except KeyboardInterrupt:
        parser.exit(130, f"stopped; the same command goes on from {folder}\n")


def run(experiment: Experiment, stages: Sequence[str], as_json: bool) -> int:
    """Prints what the stages find; 1 where a claim fails."""
    settings, corpora, failed = experiment.settings, experiment.corpora, False
    head = f"pbde {package_version()}, lm: preset {settings.preset}, ops {settings.ops}, seed {settings.seed}"
    if not as_json:
        print(f"{head}\ncorpus {corpora.name}: {corpora.about}", flush=True)
    for stage in stages:
        began = time.perf_counter()
        if not as_json:
            print(f"\n{stage}", flush=True)
        for line in STAGES[stage](experiment):
            failed |= line.failed
            if not as_json:
                print(line.text, flush=True)
            elif line.values is not None:
                print(json_line(line.values), flush=True)
        if not as_json:
            print(f"{time.perf_counter() - began:.0f} s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(until_closed(main))
