"""The simulator: ranks, streams and a fluid network in simulated time. The only package that imports simpy."""
