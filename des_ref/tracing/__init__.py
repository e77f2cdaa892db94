"""Writes a trace of training steps.

des_ref.recording records the ops; this package adds the phase and the size formulas of the strategy's plan.
"""
