"""Host lists of topology.conf, and the bound on the names of a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dessim.cluster.importers import slurm
from dessim.errors import ClusterError

CONF = Path("topology.conf")


def test_names_keep_their_leading_zeros() -> None:
    text = "SwitchName=s Nodes=a[08-10,3]b[0-1],c\n"
    names = [f"a{i}b{j}" for i in ("3", "08", "09", "10") for j in range(2)]
    assert [host.name for host in slurm.read_slurm(CONF, text).hosts] == [*names, "c"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SwitchName=s[0-9] Nodes=n[0-49]", "line 1: the file lists more than 100 nodes and switches"),
        ("SwitchName=a Nodes=n[0-59]\nSwitchName=b Nodes=m[0-59]", "line 2: the file lists more than 100"),
        ("SwitchName=s Nodes=n[0-60,100-160]", r"\[0-60,100-160\] makes more than 100 names"),
        ("SwitchName=s Nodes=n[0-20]-[0-20]", r"\[0-20\] makes more than 100 names"),
        ("SwitchName=s Nodes=n[0-99],m", r"'n\[0-99\],m' is more than 100 names"),
        (f"SwitchName=s Nodes={'n' * 300}[0-9]", "a name of more than 255 letters"),
        ("SwitchName=s Nodes=n[5-3]", r"\[5-3\] is not a list of numbers"),
    ],
)
def test_names_are_bounded(monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    monkeypatch.setattr(slurm, "MAX_NODES", 100)
    with pytest.raises(ClusterError, match=words) as raised:
        slurm.read_slurm(CONF, text)
    assert "\n" not in str(raised.value)


def test_a_long_chain_of_switches_is_read_in_time_that_grows_with_its_length() -> None:
    """Each switch has one server and the next switch; a count for each switch of all below it would take minutes."""
    count = 20_000
    chain = [f"SwitchName=s{i} Switches=s{i + 1},leaf{i}" for i in range(count)]
    leaves = [f"SwitchName=leaf{i} Nodes=n{i}" for i in range(count)]
    found = slurm.read_slurm(CONF, "\n".join([*chain, *leaves, f"SwitchName=s{count} Nodes=n{count}"]))
    assert found.cables["s0", "s1"] == ((None, count),)
    assert found.cables["leaf7", "s7"] == ((None, 1),)


@pytest.mark.parametrize("names", ["a", "abc"])
def test_switches_in_a_ring_are_refused(names: str) -> None:
    ring = [f"SwitchName={a} Switches={b}" for a, b in zip(names, names[1:] + names[0], strict=True)]
    with pytest.raises(ClusterError, match=f"a: is below itself, through '{(names + names)[1]}'"):
        slurm.read_slurm(CONF, "\n".join([*ring, "SwitchName=leaf Nodes=n[0-3]"]))
