"""Help texts in plain text: one section for each panel of commands and options.

Typer's own layout loads rich, which takes a third of the time of ``video-llama --help``.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

Rows = list[tuple[str, str]]

ARGUMENTS, OPTIONS, COMMANDS, EXAMPLES = "Arguments", "Options", "Commands", "Examples"
MAX_WIDTH = 100
_FACTS = re.compile(r"\.?  \\?\[(?P<facts>[^\[\]]*)\]$")
"""The default and the range of an option, which typer appends in brackets."""
_TYPE = re.compile(r" <(?P<type>[^>]*)>$")
"""The type of an option without a metavar."""
_METAVARS = {"int": "N", "int range": "N", "float": "FLOAT", "float range": "FLOAT", "path": "PATH"}


def parameter_sections(command: Any, context: Any) -> dict[str, Rows]:
    """Return the names and descriptions of a command's parameters, arguments first, then each panel of options."""
    sections: dict[str, Rows] = {ARGUMENTS: []}
    for parameter in command.get_params(context):
        if parameter.param_type_name == "argument":
            sections[ARGUMENTS].append((argument_name(parameter), parameter.help or ""))
        elif record := parameter.get_help_record(context):
            panel = getattr(parameter, "rich_help_panel", None) or OPTIONS
            name = _TYPE.sub(lambda match: f" {_METAVARS.get(match['type'], 'TEXT')}", record[0])
            sections.setdefault(panel, []).append((name, _FACTS.sub(_in_words, record[1])))
    return {name: rows for name, rows in sections.items() if rows}


def command_sections(group: Any, context: Any) -> dict[str, Rows]:
    """Return the names and summaries of a group's commands, by panel."""
    sections: dict[str, Rows] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        panel = command.rich_help_panel or COMMANDS
        sections.setdefault(panel, []).append((name, summary(command.help or "")))
    return sections


def examples(command: Any) -> list[str]:
    """Return the example commands, which are the lines of the epilog."""
    return (command.epilog or "").splitlines()


def _in_words(match: re.Match[str]) -> str:
    """ "[default: 8; 1<=x<=64]" -> " (default: 8; 1 to 64)."; a minimum alone is left to the error message."""
    facts = [fact.replace("<=x<=", " to ") for fact in match["facts"].split("; ") if not fact.startswith("x>=")]
    return f" ({'; '.join(facts)})." if facts else "."


def summary(text: str) -> str:
    """Return the first sentence of a help text."""
    first = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) ", first, maxsplit=1)[0]


def argument_name(parameter: Any) -> str:
    """Return how usage lines name an argument."""
    return str(parameter.metavar or parameter.name.upper())


def _usage_pieces(command: Any, context: Any) -> list[str]:
    parameters = command.get_params(context)
    options = [each for each in parameters if each.param_type_name == "option" and each.required]
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    pieces = [command.options_metavar, *(f"{each.opts[0]} {each.metavar}" for each in options)]
    return [*pieces, *map(argument_name, arguments)]


def _write(formatter: Any, sections: dict[str, Rows]) -> None:
    is_styled = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for name, rows in sections.items():
        with formatter.section(typer.style(name, bold=True) if is_styled else name):
            formatter.write_dl(rows)


class HelpCommand(TyperCommand):
    """A command whose help has a section for each panel of options."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{**settings, "rich_markup_mode": None})

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return _usage_pieces(self, ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write(formatter, parameter_sections(self, ctx))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if lines := examples(self):
            _write(formatter, {EXAMPLES: [(line, "") for line in lines]})


class HelpGroup(TyperGroup):
    """A group whose help has a section for each panel of commands, before its options."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{**settings, "rich_markup_mode": None})

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*_usage_pieces(self, ctx), self.subcommand_metavar]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write(formatter, command_sections(self, ctx))
        _write(formatter, parameter_sections(self, ctx))
