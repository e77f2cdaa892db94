"""`dessim model ...`: lists, shows and checks model files."""

from __future__ import annotations

from typing import Annotated

import typer

from dessim.cli.groups import Verbs
from dessim.cli.options import JsonOption
from dessim.cli.output import guarded, print_json, report_check

model = typer.Typer(cls=Verbs, help="List, show and check model files.", no_args_is_help=True, rich_markup_mode=None)

ModelArgument = Annotated[
    str, typer.Argument(help="Model file, or a name from dessim model list.", show_default=False, metavar="MODEL")
]


@model.command("list")
@guarded
def model_list(json: JsonOption = False) -> None:
    """List the shipped models."""
    from dessim.results.tables import print_table, table_of
    from dessim.units import format_count
    from dessim.workload.describe_model import describe
    from dessim.workload.model import load_model, shipped_models

    described = [describe(load_model(name)) for name in shipped_models()]
    if json:
        print_json({"models": described})
        return
    cells = [
        (m["name"], f"{m['tables']:,}", format_count(m["rows"]), f"{m['ids_per_sample']:,g}", ", ".join(m["operators"]))
        for m in described
    ]
    columns = ("name", "tables", "rows", "ids a sample", "operators")
    print_table(table_of(columns, cells, left=("operators",), folds={"operators": 30}))


@model.command("show")
@guarded
def model_show(name: ModelArgument, json: JsonOption = False) -> None:
    """Show a model's tables, operators, weights and bytes."""
    from dessim.results.show_model import print_model
    from dessim.workload.describe_model import describe
    from dessim.workload.model import load_model

    described = describe(load_model(name))
    if json:
        print_json(described)
    else:
        print_model(described)


@model.command("check")
@guarded
def model_check(name: ModelArgument, json: JsonOption = False) -> None:
    """Check a model file, and name the strategies that can train the model.

    The exit code is 1 if the file is wrong or missing, and 3 if no strategy can train the model.
    """
    from dessim.results.show import print_text
    from dessim.workload.describe_model import strategies_for
    from dessim.workload.model import load_model

    loaded = load_model(name)
    able = strategies_for(loaded)
    if able and not json:
        print_text(f"{loaded.name}: can be trained by {', '.join(able)}")
    report_check(loaded.name, [] if able else ["no strategy can train it"], json)
