"""Two or more mlps side by side, each over its own tables: two-tower and multi-tower ranking models."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dessim.workload.formula import ZERO
from dessim.workload.operators.base import Costs, Dense, OverOperand, Shape, Widths, hidden_layers, perceptron

Name = Annotated[str, Field(min_length=1, max_length=100)]


class Tower(BaseModel):
    """One tower: an mlp of `widths` over the pooled vectors of `tables`, side by side, after the output of the bottom
    mlp with `dense`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Name
    tables: Annotated[tuple[Name, ...], Field(min_length=1)]
    widths: Widths
    dense: bool = False


class Towers(OverOperand):
    """The inner product of two towers' outputs (dot), or an mlp of `widths` over all outputs side by side (concat)."""

    kind: Literal["towers"]
    any_widths: ClassVar[bool] = True
    join: Literal["dot", "concat"]
    widths: Widths | None = None
    towers: Annotated[tuple[Tower, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _join_fits(self) -> Towers:
        if self.join == "concat":
            if self.widths is None:
                raise ValueError('join = "concat" needs widths, those of the mlp over the towers')
            return self
        if self.widths is not None:
            raise ValueError('join = "dot" has no mlp over the towers: remove widths, or write join = "concat"')
        if len(self.towers) > 2:
            raise ValueError(f'join = "dot" multiplies two towers, not {len(self.towers)}: write join = "concat"')
        first, second = self.towers
        if first.widths[-1] != second.widths[-1]:
            raise ValueError(
                f'join = "dot" needs outputs of one width: tower "{first.name}" ends with {first.widths[-1]}, '
                f'"{second.name}" with {second.widths[-1]}'
            )
        return self

    def misfit(self, shape: Shape) -> str:
        if not all(shape.names) or not shape.names:
            return "its towers name tables: write schema_version = 2, and a name in each of [[tables]]"
        for what, names in (
            ("[[tables]]", shape.names),
            ("its towers", tuple(tower.name for tower in self.towers)),
            ("the tables of its towers", tuple(table for tower in self.towers for table in tower.tables)),
        ):
            twice = next((name for name, times in Counter(names).items() if times > 1), None)
            if twice is not None:
                return f'"{twice}" occurs twice in {what}'
        for tower in self.towers:
            unknown = next((table for table in tower.tables if table not in shape.names), None)
            if unknown is not None:
                return f'tower "{tower.name}" reads table "{unknown}", which [[tables]] does not have'
            if tower.dense and not shape.bottom:
                return f'tower "{tower.name}" has dense = true, and the model has no [dense]'
        read = {table for tower in self.towers for table in tower.tables}
        unread = next((name for name in shape.names if name not in read), None)
        if unread is not None:
            return f'table "{unread}" is in no tower: add it to one, or remove it'
        if shape.bottom and not any(tower.dense for tower in self.towers):
            return "no tower reads the output of the bottom mlp: write dense = true in one, or remove [dense]"
        return ""

    def vectors_of_towers(self, shape: Shape) -> tuple[tuple[int, ...], ...]:
        """The vectors of a sample that each tower reads, by number; with dense inputs 0 is the bottom mlp's output."""
        first = int(shape.bottom > 0)
        return tuple(
            ((0,) if tower.dense else ()) + tuple(first + shape.names.index(table) for table in tower.tables)
            for tower in self.towers
        )

    def costs(self, shape: Shape) -> Costs:
        vectors = (*((shape.bottom,) if shape.bottom else ()), *shape.widths)
        dense = Dense()
        for tower, read in zip(self.towers, self.vectors_of_towers(shape), strict=True):
            inputs = sum(vectors[number] for number in read)
            dense += hidden_layers(inputs, tower.widths) + Dense(units=inputs)
        outputs = sum(tower.widths[-1] for tower in self.towers)
        if self.widths is None:
            dense += Dense(outputs // 2, units=outputs // 2)  # the products, which are then added up
        else:
            dense += perceptron(outputs, self.widths) + Dense(units=outputs)
        return Costs("towers", wire=ZERO, dense=dense)
