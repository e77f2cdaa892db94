"""Results as frozen dataclasses: the typed form of the objects that `--json` prints.

A result is made from such an object by `from_json`, and `to_json` returns the object. Attributes have the names of the
object's keys, with two exceptions: the ends of an 80 % interval are `low_s` and `high_s`, and the ops of a step are
`ops`. Results with rows are sequences of them, and `to_frame` returns a pandas DataFrame with one line a row. Seconds,
bytes and rates have their unit in the name; other numbers are counts, or shares from 0 to 1.
"""
