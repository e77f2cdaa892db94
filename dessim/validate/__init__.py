"""Validation on the lab: predictions from a calibration, compared with measurements of the same cases.

`dessim.validate.run.validate` runs every kind of case and returns outcomes. `outcome` and `report` summarise and print
outcomes of any kind.
"""
