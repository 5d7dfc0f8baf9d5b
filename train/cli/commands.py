"""Train image classifiers with saliency-guided augmentation, and look into what was trained.

Without a command, the program trains, with the options below: on its embedded data where no other is stated. To train
on your own images, to resume that run, and to see what a method does to them:

  %(prog)s --data DIR --model resnet50 --method keep_randaugment --out runs/mine
  %(prog)s --resume --out runs/mine
  %(prog)s show runs/mine DIR

%(prog)s COMMAND --help explains the options of a command.
"""

import importlib
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dali_salaug import __version__
from train.cli.parser import HelpFormatter, Parser

# Each command's module and what it does. The module's docstring is the description in its help; `add_options(parser)`
# adds its options, and `run(options)` returns its exit status. Modules are imported where they are needed.
COMMANDS = {
    "train": ("train.programs.train", "train a classifier, or resume a run; the same without the word train"),
    "semi": ("train.programs.semi", "train a classifier on few labels and many unlabelled images"),
    "reid": ("train.programs.reid", "train a network that finds the same person in the images of other cameras"),
    "detect": ("train.programs.detect", "train a detector on the backbone of a run"),
    "show": ("train.programs.show", "draw what a method does to your own images"),
    "export": (
        "train.programs.export",
        "write the trained weights to a file that loads without this project, and a model card",
    ),
    "evaluate": (
        "train.analysis.evaluation.program",
        "measure accuracy, calibration, robustness and explanation of runs, with a page of pictures",
    ),
    "advise": (
        "train.analysis.advice.program",
        "say which family of augmentation the data of a run wants, with the numbers that say so",
    ),
    "check-data": ("train.programs.check_data", "decode every image of a data set, and list the bad ones"),
    "index": ("train.programs.index", "list the images in shards and LMDB folders once, before training"),
    "coverage": ("train.analysis.coverage", "measure how much of the object the methods remove or keep"),
    "agreement": ("train.analysis.agreement", "measure whether saliency maps follow an augmentation"),
    "prices": ("train.analysis.prices", "measure what the cheaper saliency maps of a run choose"),
    "precision": ("train.analysis.precision", "measure whether maps of reduced precision choose the same regions"),
    "picture": ("train.programs.picture", "draw a run's methods beside the plain ones, with the shares of the objects"),
    "shapes": ("train.programs.shapes", "write the embedded data set into a folder, at any size"),
    "benchmark": ("train.benchmarks.program", "measure speed and memory on this machine"),
    "experiment": ("train.experiments.program", "compare methods over several seeds, with a table"),
}


def program_name() -> str:
    """Return how the program was called."""
    return "dali-salaug" if Path(sys.argv[0]).name == "dali-salaug" else "python -m train"


def import_command(name: str) -> Any:
    """Return the module of a command."""
    return importlib.import_module(COMMANDS[name][0])


def build_parser(names: Collection[str] = tuple(COMMANDS)) -> Parser:
    """Return the parser of the program.

    Args:
        names: the commands that get their options. The modules of the others are not imported.
    """
    parser = Parser(
        prog=program_name(),
        usage="%(prog)s [COMMAND] [OPTION ...]",
        description=__doc__,
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dali_salaug {__version__}", help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", prog=parser.prog)
    for name, (_, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, formatter_class=HelpFormatter)
        if name in names:
            module = import_command(name)
            command.description = module.__doc__
            module.add_options(command)
    if "train" in names:
        training = parser.add_argument_group("options of training, without a command")
        import_command("train").add_training_options(training)
        parser.epilog = commands.choices["train"].epilog
    return parser


def run(arguments: list[str]) -> int:
    """Run the command that the arguments name, or else train. Returns the exit status.

    Raises:
        UserError, DataError: the options or the data cannot be used.
        SystemExit: argparse has printed a help, or what is wrong with the arguments.
    """
    name = arguments[0] if arguments and arguments[0] in COMMANDS else "train"
    parser = build_parser([name])
    if name not in arguments[:1]:
        _check_training_options(parser, arguments)
    options = parser.parse_args(arguments)
    options.line = shlex.join([*parser.prog.split(), *arguments])  # for results
    if options.command not in (None, name):
        parser.error(f"the command comes first; got {options.command} after other options")
    return import_command(name).run(options)


def _check_training_options(parser: Parser, arguments: list[str]) -> None:
    """Exit where training does not know an option, whose value `parser` would take for a command."""
    training = Parser(prog=parser.prog, usage=parser.usage, add_help=False)
    training.add_argument("-h", "--help", "--version", action="store_true")
    import_command("train").add_training_options(training)
    options, unknown = training.parse_known_args(arguments)
    if unknown and unknown[0].startswith("-"):
        parser.unrecognized(unknown, training.flags(options))
