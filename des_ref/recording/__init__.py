"""Records what torch runs in a training step: collectives, compute segments, copies, clocks.

It knows no plan; des_ref.tracing adds the formulas of a strategy's plan to recorded ops.
"""
