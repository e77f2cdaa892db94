"""Validation on the lab: what the simulator predicts from a calibration, held against what really runs.

`dessim.validate.run.validate` runs every kind of case and returns outcomes; `outcome` and `report` judge and show
them and know nothing of what was measured.
"""
