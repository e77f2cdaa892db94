"""The row table against a dict: ids arrive, wait for admission, are trained, expire and return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from des_ref.embedding import growing, row_numbers
from des_ref.embedding.growing import Growing
from des_ref.embedding.hash_table import RowTable
from des_ref.embedding.lifetime import Lifetime
from des_ref.embedding.row_numbers import RowNumbers
from des_ref.embedding.slots import Slots
from des_ref.hashing import mix64, owner_of
from dessim.errors import UsageError

# Small ids that recur often, ids of all 64 bits, and ids whose home slots coincide or nearly so.
IDS = st.one_of(st.integers(-30, 30), st.integers(-(2**63), 2**63 - 1), st.integers(-16, 15).map(lambda i: i << 59))
STEPS = st.lists(st.lists(IDS, unique=True, max_size=40), max_size=25)
LIFETIMES = st.builds(Lifetime, st.integers(1, 4), st.one_of(st.none(), st.integers(1, 6)))


@pytest.fixture
def small_indexes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Indexes that are full after 8 keys and migrate 2 keys a step, so that most steps run during a migration."""
    monkeypatch.setattr(row_numbers, "_MIN_SLOTS", 16)
    monkeypatch.setattr(row_numbers, "_MIN_KEYS_MOVED", 2)
    yield


@pytest.fixture
def without_reserved_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing copies, as on a GPU or under a limit on address space."""
    monkeypatch.setattr(growing, "mapped_zeros", lambda count, dtype: None)


def new_table(lifetime: Lifetime | None = None) -> RowTable:
    return RowTable({"v": 2, "sum": 1}, lambda ids: {"v": first(ids)}, torch.float64, lifetime=lifetime)


def first(ids: Tensor) -> Tensor:
    return torch.stack([ids % 1000, ids % 7], dim=1).double()


def tensor(ids: list[int]) -> Tensor:
    return torch.tensor(ids, dtype=torch.int64)


@dataclass
class Known:
    seen: int
    steps: int = 0
    row: list[float] | None = None  # v, v, sum


@dataclass
class Model:
    """A model of RowTable that handles one id at a time."""

    lifetime: Lifetime
    now: int = 0
    ids: dict[int, Known] = field(default_factory=dict)

    def alive(self) -> dict[int, Known]:
        age = self.lifetime.expire_after
        return {i: known for i, known in self.ids.items() if age is None or self.now - known.seen <= age}

    def step(self, batch: list[int]) -> list[bool]:
        self.ids = self.alive()
        for i in batch:
            known = self.ids.setdefault(i, Known(self.now))
            known.seen, known.steps = self.now, known.steps + 1
            if known.row is None and known.steps >= self.lifetime.admit_after:
                known.row = [*first(tensor([i]))[0].tolist(), 0.0]
        return [self.ids[i].row is not None for i in batch]

    def train(self, batch: list[int]) -> None:
        for i in batch:
            if (row := self.ids[i].row) is not None:
                self.ids[i].row = [row[0] + 1, row[1] + i % 3, row[2] + 1]

    def exported(self) -> dict[str, dict[int, tuple[float, ...]]]:
        alive, ages = self.alive(), self.lifetime.expire_after is not None
        rows = {i: (*k.row, *([self.now - k.seen] if ages else [])) for i, k in alive.items() if k.row is not None}
        groups = {"rows": rows}
        if self.lifetime.admit_after > 1:
            waiting = {i: k for i, k in alive.items() if k.row is None}
            groups["candidates"] = {i: (k.steps, *([self.now - k.seen] if ages else [])) for i, k in waiting.items()}
        return groups


def exported(table: RowTable) -> dict[str, dict[int, tuple[float, ...]]]:
    """A table's export by id; also checks that keys are sorted and distinct."""
    groups = {}
    for name, lines in table.export().items():
        keys = lines["keys"].tolist()
        assert keys == sorted(set(keys))
        columns = [lines[c].double() for c in ("v", "sum", "count", "age") if c in lines]
        values = torch.cat([c if c.dim() == 2 else c[:, None] for c in columns], dim=1).tolist()
        groups[name] = {key: tuple(line) for key, line in zip(keys, values, strict=True)}
    return groups


def train(table: RowTable, batch: list[int]) -> Tensor:
    ids = tensor(batch)
    rows = table.find_or_insert(ids)
    grads = {"v": torch.stack([torch.ones_like(ids), ids % 3], dim=1).double()}
    trained, grads = table.admitted(rows, grads)
    table.columns["v"][trained] += grads["v"]
    table.columns["sum"][trained] += 1
    table.end_step()
    return rows


@given(steps=STEPS, lifetime=LIFETIMES, reload_at=st.integers(0, 25))
@settings(deadline=None, max_examples=150)
def check_against_the_model(steps: list[list[int]], lifetime: Lifetime, reload_at: int) -> None:
    table, model, all_ids = new_table(lifetime), Model(lifetime), sorted({i for batch in steps for i in batch})
    for number, batch in enumerate(steps):
        if number == reload_at:
            saved, table = table.export(), new_table(lifetime)
            table.load({group: {name: t.flip(0) for name, t in lines.items()} for group, lines in saved.items()})
        has_row = model.step(batch)
        rows = train(table, batch).tolist()
        assert [row >= 0 for row in rows] == has_row
        assigned = [row for row in rows if row >= 0]
        assert len(set(assigned)) == len(assigned)
        model.train(batch)
        model.now += 1
        groups = model.exported()
        assert exported(table) == groups
        present = table.find(tensor(all_ids)) >= 0
        assert present.tolist() == [i in groups["rows"] for i in all_ids]
        values = table.gather(tensor(all_ids), ("v", "sum"))
        untouched = [(*line, 0.0) for line in first(tensor(all_ids)).tolist()]
        expected = [groups["rows"].get(i, start)[:3] for i, start in zip(all_ids, untouched, strict=True)]
        assert torch.cat(list(values.values()), dim=1).tolist() == [list(line) for line in expected]


@pytest.mark.usefixtures("small_indexes")
def test_table_behaves_like_a_dict() -> None:
    check_against_the_model()


@pytest.mark.usefixtures("small_indexes", "without_reserved_addresses")
def test_table_behaves_like_a_dict_when_growing_copies() -> None:
    check_against_the_model()


@pytest.mark.parametrize("lifetime", [None, Lifetime(2, 40)])
def test_growth_loses_no_row_and_no_value(lifetime: Lifetime | None) -> None:
    """At realistic size: half a million ids, through eight indexes."""
    table, ids = new_table(lifetime), mix64(torch.arange(500_000))
    for chunk in ids.split(25_000):
        for _ in range(2):
            rows = table.find_or_insert(chunk)
            table.end_step()
        table.columns["sum"][rows, 0] = (chunk % 1009).double()
    rows = table.find(ids)
    assert len(torch.unique(rows)) == len(ids) == len(table)
    assert torch.equal(table.columns["sum"][rows, 0], (ids % 1009).double())
    assert torch.equal(table.columns["v"][rows], first(ids))


def test_memory_of_expired_ids_is_reused() -> None:
    """With a moving window of ids, the rows in use match the window and few more are ever assigned."""
    table, width, lifetime = new_table(Lifetime(2, 20)), 1000, 20
    for step in range(400):
        ids = torch.arange(step * 100, step * 100 + width)
        table.find_or_insert(mix64(ids))
        table.end_step()
    window = width + 100 * lifetime  # ids seen in the last 20 steps
    assert len(table.export()["rows"]["keys"]) == pytest.approx(window, abs=200)
    # The sweep lags by at most half a lifetime; 400 steps contained 41,000 ids.
    assert len(table) < window + 100 * lifetime / 2 + 200
    assert len(table.columns["v"]) < 2 * window
    assert table.candidates < 500


def test_a_constant_number_of_changing_keys_needs_constant_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 of 1,200 keys are replaced each step, through many index migrations that take several steps."""
    monkeypatch.setattr(row_numbers, "_MIN_KEYS_MOVED", 20)
    numbers, step, present = RowNumbers("cpu"), 60, 1200
    keys = mix64(torch.arange(-present, 40 * present))  # the first ones are never added
    rows = numbers.add(keys[present : 2 * present])
    moving = 0
    for begin in range(2 * present, 41 * present, step):
        numbers.remove(rows[:step])
        rows = torch.cat([rows[step:], numbers.add(keys[begin : begin + step])])
        moving += numbers._old is not None
        first = begin + step - present  # of the keys that are present
        assert torch.equal(numbers.find(keys[first : begin + step]), rows)
        assert int(numbers.find(keys[first - present : first]).max()) == -1
        assert len(numbers) == present and numbers.end == present
        numbers.move()
    assert moving > 100


def test_a_long_index_migration_is_cut_into_slices() -> None:
    numbers, ids = RowNumbers("cpu"), mix64(torch.arange(530_000))
    numbers.add(ids[:200_000])
    full = int(0.5 * numbers._slots.size)
    numbers.add(ids[200_000 : full - 10])
    moved = []
    for part in ids[full - 10 :].split(64):
        numbers.add(part)
        moved.append(numbers._moved if numbers._old is not None else full)
        assert torch.equal(numbers.find(ids[:1000]), torch.arange(1000))
    during_migration = [m for m in moved if m < full]
    assert (
        len(during_migration) == full // row_numbers._MIN_KEYS_MOVED - 2
    )  # the first step moves two slices, the last one completes the migration
    assert max(np.diff(during_migration)) == row_numbers._MIN_KEYS_MOVED and moved[-1] == full
    assert torch.equal(numbers.find(ids), torch.arange(len(ids)))


def test_ids_of_one_owner_or_in_sequence_spread_over_the_index() -> None:
    ids = torch.arange(400_000)
    of_one_owner = ids[owner_of(ids, 64) == 5]
    for crowd in (of_one_owner, torch.arange(6000), torch.arange(6000) << 32, torch.arange(6000) << 52):
        home = Slots(1 << 14, torch.device("cpu")).home(crowd)
        # Balls in bins at half load: the fullest bin of thousands holds a handful, not hundreds.
        assert int(torch.bincount(home).max()) < 12


def test_growing_does_not_move_rows() -> None:
    column = Growing(torch.float32, "cpu", 4)
    column.reserve(10)
    column.values[:10] = 1.0
    where = column.values.data_ptr()
    column.reserve(3_000_000)
    assert column.values.data_ptr() == where
    assert float(column.values[:3_000_000].sum()) == 40.0


def test_a_table_loads_rows_saved_with_other_lifetime_settings() -> None:
    """From rows that never expire to rows that do, and back: rows remain rows."""
    plain, expiring = new_table(), new_table(Lifetime(3, 5))
    train(plain, [1, 2, 3])
    expiring.load(plain.export())
    assert (expiring.find(tensor([1, 2, 3])) >= 0).all()
    for _ in range(5):
        expiring.end_step()
    assert (expiring.find(tensor([1, 2, 3])) >= 0).all()
    expiring.end_step()
    assert (expiring.find(tensor([1, 2, 3])) < 0).all()
    again = new_table()
    again.load(expiring.export())
    assert len(again) == 0
    with pytest.raises(UsageError, match="no column v of width 2"):
        again.load({"rows": {"keys": tensor([1]), "v": torch.zeros(1, 3)}})


@pytest.mark.parametrize(
    ("settings_", "message"),
    [({"admit_after": 0}, "greater than or equal to 1"), ({"expire_after": 0}, "greater than or equal to 1")],
)
def test_meaningless_lifetimes_are_refused(settings_: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Lifetime(**settings_)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_table_on_a_gpu_equals_the_one_on_the_cpu() -> None:
    tables = [
        RowTable(
            {"v": 2, "sum": 1}, lambda ids: {"v": first(ids)}, torch.float64, device=device, lifetime=Lifetime(2, 6)
        )
        for device in ("cpu", "cuda")
    ]
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = torch.from_numpy(np.unique(rng.zipf(1.3, 5000)))
        for table in tables:
            rows = table.find_or_insert(ids.to(table.keys.device))
            table.columns["sum"][rows[rows >= 0]] += 1
            table.end_step()
    cpu, gpu = (table.export() for table in tables)
    for group, lines in cpu.items():
        for name, values in lines.items():
            assert torch.equal(values, gpu[group][name].cpu()), (group, name)
