"""Tests of the reading, counting and fitting of click logs."""
