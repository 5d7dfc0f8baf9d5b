"""Settings of the documentation: `python -m sphinx -W --keep-going -n -q -c docs . build/docs`, from the root.

The root is the source folder, so that a link from page to page, or to a measurement, is the same on the site and in the
repository; `include_patterns` says what is a page.
"""

import argparse
import importlib.metadata
import inspect
import os

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

import dali_salaug
from dali_salaug import METHODS, Draw
from train.cli.commands import build_parser

project = "dali_salaug"
release = importlib.metadata.version("dali-salaug")
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/results/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "dist", "runs"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 3  # as the forges make them
default_role = "code"  # of `name` in a docstring

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # the attributes of a NamedTuple are members already

# -n is strict about our own names; an inventory of other projects' would have to be fetched.
nitpick_ignore_regex = [(r"py:.*", r"(?!(dali_salaug|pipelines|train)\b).*")]
nitpick_ignore_regex += [(r"py:.*", r"dali_salaug\.(methods\.\w+|stage)\.\w+T")]  # type variables have no entry

html_theme = "furo"
html_title = f"dali_salaug {release}"


class HelpOf(Directive):
    """What `--help` prints: of the program, or of the command in the argument, and of the commands below that."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        parsers = [build_parser()]
        for name in self.arguments:
            command = commands_of(parsers[0])[name]
            parsers = [command, *commands_of(command).values()]
        return [nodes.literal_block(text := p.format_help(), text, language="none") for p in parsers]


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    actions = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: command for action in actions for name, command in action.choices.items()}


class MethodsOf(Directive):
    """The registered methods of a kind, such as "one image", with their functional forms and their types of draws."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        methods = {entry.method for entry in METHODS.values() if entry.kind == self.arguments[0]}
        modules = dict.fromkeys(entry.method.__module__ for entry in METHODS.values() if entry.method in methods)
        lines = []
        for module in map(importlib.import_module, modules):
            for name, value in vars(module).items():
                if getattr(value, "__module__", None) != module.__name__:
                    continue
                place = "dali_salaug" if name in dali_salaug.__all__ else module.__name__
                if inspect.isfunction(value) and name in dali_salaug.__all__:
                    lines.append(f".. autofunction:: {place}.{name}")
                elif value in methods or (inspect.isclass(value) and issubclass(value, Draw)):
                    lines += [f".. autoclass:: {place}.{name}", "   :no-members:"]
        section = nodes.section()
        self.state.nested_parse(StringList(lines, "the registered methods"), self.content_offset, section)
        return section.children


def setup(app: Sphinx) -> None:
    os.environ["COLUMNS"] = "100"  # the width of a help
    app.add_directive("help-of", HelpOf)
    app.add_directive("methods-of", MethodsOf)
