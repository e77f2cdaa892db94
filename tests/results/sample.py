"""A sample result.json: plans are real, times follow a two-line cost model, everything else is invented."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

from dessim.workload.model import load_model
from dessim.workload.plan import Traffic
from dessim.workload.strategies import plan

STRATEGIES = ("des_all_reduce", "des_reduce_scatter", "table_wise", "ps_sync")
SCALES = (8, 64, 512)


def projection(strategies: tuple[str, ...] = STRATEGIES, scales: tuple[int, ...] = SCALES) -> list[dict[str, Any]]:
    """Rows like those of `dessim project`."""
    return deepcopy(_projection(strategies, scales))


@cache
def _projection(strategies: tuple[str, ...], scales: tuple[int, ...]) -> list[dict[str, Any]]:
    model = load_model("fm")
    rows = []
    for gpus in scales:
        symbols = model.symbols(gpus)
        for name in strategies:
            steps = plan(name, model)
            ops = [
                {
                    "name": op.name,
                    "collective": str(op.collective),
                    "algorithm": "ring",
                    "bytes": op.bytes(symbols),
                    "time_s": 20e-6 + 1e-6 * gpus + op.sent_bytes(symbols) / 40e9,
                    "exposed_s": 10e-6 + op.sent_bytes(symbols) / 40e9,
                }
                for op in steps.collectives
            ]
            exposed = sum(op["exposed_s"] for op in ops)
            compute = 3e-3 * (1 + 0.02 * gpus * name.startswith("des_all"))
            idle = 2e-4
            step = compute + exposed + idle
            rows.append(
                {
                    "gpus": gpus,
                    "strategy": name,
                    "step_time_s": step,
                    "samples_per_s": symbols["B"] / step,
                    "bytes_per_worker": steps.sent_bytes(symbols),
                    "memory_bytes": 8 * 2**30 / gpus + 2**28,
                    "exposed_comm_s": exposed,
                    "compute_s": compute,
                    "idle_s": idle,
                    "bytes_by_traffic": {
                        str(t): steps.sent_bytes(symbols, t) for t in Traffic if t is not Traffic.NONE
                    },
                    "comm_by_op": ops,
                    **attribution(step, ops),
                    "provenance": {
                        "compute": "assumed (H100 SXM data sheet)",
                        "communication": "formula",
                        "sizes": "measured (ids a sample), formula",
                    },
                    "error_bar": 0.08 if name == "des_all_reduce" else None,
                }
            )
    return rows


def attribution(step: float, ops: list[dict[str, Any]]) -> dict[str, Any]:
    """A critical path through all `ops`, and link classes that are busy in the middle of the step."""
    comm = sum(op["exposed_s"] for op in ops)
    waits = [(op["name"], "all_reduce", op["exposed_s"], "nic_up") for op in ops]
    path = [("lookup", "compute", step - comm, "compute"), *waits]
    return {
        "bound_by": f"link: {max(ops, key=lambda o: o['exposed_s'])['name']}",
        "bytes_by_link": {"nic_up": 4e9, "nic_down": 4e9, "socket": 1e9},
        "critical_path": [
            {"name": n, "what": w, "rank": 0, "time_s": t, "time_by_bound_s": {b: t}, "bound_by": b}
            for n, w, t, b in path
        ],
        "utilisation": {
            "time_s": [0.0, 0.4 * step, 0.8 * step, step],
            "share": {"nic_up": [0.0, 0.9, 0.1], "nic_down": [0.0, 0.9, 0.1], "socket": [0.0, 0.2, 0.0]},
            "mean_share": {"nic_up": 0.38, "nic_down": 0.38, "socket": 0.08},
            "peak_share": {"nic_up": 0.9, "nic_down": 0.9, "socket": 0.2},
        },
        "what_if": [
            {"change": change, "step_time_s": seconds, "samples_per_s": 1e6, "speedup": 1.25, "does_not_fit": reason}
            for change, seconds, reason in (("2x:nic_rate", 0.8 * step, None), ("1000x:batch", None, "too large"))
        ],
    }


def result() -> dict[str, Any]:
    """A complete result, like that of `dessim demo`."""
    ops = [
        {"name": "ids", "recorded_bytes": 1_843_200, "formula_bytes": 1_843_200, "formula": "(B/N)*m*(k+c)"},
        {
            "name": "partials",
            "recorded_bytes": 6_832_128,
            "formula_bytes": 6_832_128,
            "formula": "B*(1 + (D+1) + H1)*s",
        },
        {"name": "shared_grad", "recorded_bytes": 204_800, "formula_bytes": 204_800, "formula": "(H1*F*D)*s"},
    ]
    cases = [
        {
            "ranks": ranks,
            "max_loss_diff": 2.2e-16 * ranks,
            "max_grad_diff": 1.1e-16 * ranks,
            "max_param_diff": 4.4e-16 * ranks,
            "bytes_match": True,
            "ops": ops,
        }
        for ranks in (1, 2, 4)
    ]
    return {
        "schema_version": 1,
        "dessim_version": "0.1.0",
        "data": {
            "name": "MovieLens-100K",
            "source": "recbole 1.2.1 wheel",
            "fallback": False,
            "samples": 100_000,
            "rows_train": 80_000,
            "rows_test": 10_000,
        },
        "auc": 0.7842,
        "logloss": 0.5581,
        "reference_auc": 0.785,
        "training": {"ranks": 4, "epochs": 6, "seconds": 41.7, "samples_per_s": 11_510.0},
        "certificate": {
            "ok": True,
            "max_param_diff": 1.8e-15,
            "max_loss_diff": 8.9e-16,
            "max_grad_diff": 4.4e-16,
            "bytes_match": True,
            "cases": cases,
        },
        "measured_step_s": 0.02113,
        "predicted_step_s": 0.01987,
        "prediction_error": -0.0596,
        "self_replay_error": 0.0121,
        "replay": {
            "cluster": "this machine: 2 cores, gloo over loopback",
            "ranks": 4,
            "steps": 12,
            "step_time_s": 0.01987,
            "compute_s": 0.01102,
            "exposed_comm_s": 0.00795,
            "idle_s": 0.0009,
            **attribution(0.01987, [{"name": "partials", "exposed_s": 0.00795}]),
            "comm_by_op": [
                {
                    "name": o["name"],
                    "collective": c,
                    "algorithm": a,
                    "bytes": o["recorded_bytes"],
                    "time_s": t,
                    "exposed_s": t,
                }
                for o, c, a, t in zip(
                    ops,
                    ("all_to_all", "all_reduce", "all_reduce"),
                    ("pairwise", "ring", "ring"),
                    (0.0016, 0.0061, 0.0004),
                    strict=True,
                )
            ],
        },
        "calibration": {
            "transport": "gloo-tcp",
            "message_overhead_s": 38e-6,
            "latency_s": 410e-6,
            "bandwidth_GBps": 1.84,
            "r2": 0.9931,
            "n": 24,
        },
        "projection_cluster": "h100-8x_rail_128",
        "projection": projection(),
    }
