"""Groups of verbs whose help says every verb's line in full, on terminals of any width."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from dessim.wording import in_words

_WHOLE = 1000  # characters; more than any verb's first sentence


class Verbs(TyperGroup):
    """A group whose `--help` wraps the lines of its verbs, which typer would cut with three dots."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        lines = [(name, verb.get_short_help_str(_WHOLE)) for name, verb in commands if verb and not verb.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(lines)


class RootVerbs(Verbs):
    """The verbs of `dessim`. The two options for shell completion work, but `--help` names them in one line only."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # Some versions of typer check values with pydantic, and quote its words.
            if (mistakes := getattr(error.__cause__, "errors", None)) is not None:
                error.message = in_words(mistakes()[0])
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.params:
            if parameter.name in ("install_completion", "show_completion"):
                parameter.hidden = True  # type: ignore[attr-defined]
        super().format_options(ctx, formatter)
