"""Every link class, bound and strategy has words for the screen."""

from __future__ import annotations

from dataclasses import fields

from dessim.cluster import list_topologies, load_cluster
from dessim.results.labels import BOUND_LABELS, LINK_LABELS, bound_label, link_label, link_pair, step_bound_label
from dessim.results.style import OPTION_LABELS, STRATEGY_STYLE, strategy_label
from dessim.workload.options import Options


def test_every_link_class_of_the_shipped_clusters_has_words_of_its_own() -> None:
    classes = {kind for path in list_topologies().values() for kind in load_cluster(path).links.kinds}
    labels = {link_class: link_label(link_class) for link_class in classes | set(LINK_LABELS)}
    assert len(set(labels.values())) == len(labels)
    assert not [label for link_class, label in labels.items() if label == link_class or "_" in label]


def test_bounds_have_words() -> None:
    assert bound_label("leaf_up") == "leaf-to-spine uplinks" and bound_label("x_plus") == "torus links, +x"
    assert bound_label("flow cap") == "rate limit per flow" and bound_label("latency") == "latency"
    assert len(set(BOUND_LABELS.values())) == len(BOUND_LABELS)
    assert bound_label("a class of a later version") == "a class of a later version"


def test_the_directions_of_a_link_share_a_name() -> None:
    assert link_pair("nic_up") == ("NIC", "out of the GPU") and link_pair("nic_down") == ("NIC", "towards the GPU")
    assert link_pair("global") == ("links between groups", "")


def test_a_strategy_is_named_with_its_options_in_words() -> None:
    assert strategy_label("ps_sync+hot_rows=1000") == "parameter server, 1,000 hot rows"
    assert strategy_label("row_all_to_all+hot_rows=500+look_ahead") == "row AllToAll, 500 hot rows, look-ahead"
    assert strategy_label("ps_sync+{0}=1") == "parameter server, {0}=1"
    assert OPTION_LABELS.keys() == {field.name for field in fields(Options)}
    assert not [name for name in STRATEGY_STYLE if "_" in strategy_label(name)]


def test_compute_that_others_wait_for_is_said_to_be_the_busiest_ranks() -> None:
    path = [{"time_by_bound_s": {"compute": 3.0, "nic_up": 1.0}}, {"time_by_bound_s": {"compute": 1.0}}]
    step = {"bound_by": "compute", "compute_s": 1.5, "exposed_comm_s": 3.5, "idle_s": 0.0, "critical_path": path}
    assert step_bound_label(step) == "compute, busiest rank"
    # All ranks compute as long; or compute is what the mean rank does most.
    assert step_bound_label({**step, "compute_s": 3.8, "exposed_comm_s": 4.0}) == "compute"
    assert step_bound_label({**step, "compute_s": 2.6, "exposed_comm_s": 2.4}) == "compute"
    assert step_bound_label({**step, "bound_by": "nic_up"}) == "NIC, sending"
    assert step_bound_label({"bound_by": None}) == ""
