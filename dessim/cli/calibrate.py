"""`dessim calibrate`: fits a transport profile to measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dessim.cli.options import CLUSTER_HELP, JsonOption
from dessim.cli.output import guarded, print_json, to_write
from dessim.errors import UsageError, printable


@guarded
def calibrate(
    output: Annotated[
        Path, typer.Option("--out", "-o", "--output", callback=to_write, help="File to write.", show_default=False)
    ],
    lab: Annotated[
        str | None, typer.Option("--lab", help=f"{CLUSTER_HELP} It is built on this machine. Needs root.")
    ] = None,
    bench: Annotated[
        list[Path] | None,
        typer.Option("--bench", help="Results of `des_ref.bench --cases PLAN` on a real cluster; may be repeated."),
    ] = None,
    plan: Annotated[
        int | None, typer.Option(help="Only write the cases to time with des_ref.bench on this number of ranks.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help=f"{CLUSTER_HELP} With --bench and --nccl-tests.")] = None,
    nccl_tests: Annotated[
        bool, typer.Option("--nccl-tests", help="Read LOGS, what nccl-tests or rccl-tests printed; may be JSON.")
    ] = False,
    logs: Annotated[
        list[Path] | None, typer.Argument(help="Logs of nccl-tests, for --nccl-tests.", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Measure a cluster's messages and fit a transport profile.

    The profile holds what the software costs per message, byte and sum. The cluster must be idle.
    """
    from dessim.calibrate.bench import load_benches
    from dessim.calibrate.profile import fit_bench, fit_profile, write_profile
    from dessim.cluster import load_cluster
    from dessim.commands.calibrate import measure_on_lab, of_files, write_plan
    from dessim.results.show import print_text

    if nccl_tests or logs:
        if not (nccl_tests and logs and cluster) or [lab, bench, plan] != [None, None, None]:
            raise UsageError("give --nccl-tests LOG... --cluster FILE, and neither --lab, --bench nor --plan")
        _from_nccl_tests(logs, cluster, output, json)
        return
    if [lab is None, not bench, plan is None].count(False) != 1 or (not bench) != (cluster is None):
        raise UsageError(
            "give --nccl-tests LOG... and --cluster FILE, or --lab FILE, or --bench RESULTS and --cluster FILE, "
            "or --plan RANKS"
        )
    if plan is not None:
        write_plan(output, plan)
        if json:
            print_json({"plan": str(output), "ranks": plan})
            return
        print_text(f"{output}: run it with: torchrun ... -m des_ref.bench --cases {output} --json bench.json")
        return
    if lab is not None:
        profile = fit_profile(measure_on_lab(lab, lambda line: typer.echo(line, err=True)))
    else:
        profile = fit_bench(load_benches(bench or []), load_cluster(cluster or ""), of_files(bench or []))
    write_profile(output, profile)
    if json:
        print_json(profile.to_json())
        return
    print_text(
        f"{output}: {len(profile.residuals)} measurements, fitted with a median error of {profile.median_error:.1%}"
    )


def _from_nccl_tests(logs: list[Path], cluster: str, output: Path, json: bool) -> None:
    from dessim.calibrate.nccl.profile import fit_nccl_logs, write_nccl_profile
    from dessim.cluster import load_cluster
    from dessim.results.nccl_residuals import residual_tables
    from dessim.results.show import print_text
    from dessim.results.tables import print_table
    from dessim.units import percent

    profile = fit_nccl_logs(logs, load_cluster(cluster))
    write_nccl_profile(output, profile)
    if json:
        print_json(profile.to_json())
        return
    for table in residual_tables(profile.by_op_and_size(), profile.by_op_and_band()):
        print_table(table)
    for remark in profile.skipped:
        print_text(f"left out: {printable(remark)}")
    count = f"{len(profile.residuals)} readings of nccl-tests"
    print_text(
        f"{output}: {count}, constants fitted with a median error of {profile.median_error:.1%}; "
        "use it with --transport"
    )
    if profile.left_out:
        errors = ", ".join(f"{percent(error)} {sizes}" for sizes, error in profile.unseen().items())
        print_text(f"calibrated with every other size, the rest are predicted with median errors of {errors}")
