"""Checkpoints: what a run needs to go on, written in the background, whole or not at all; see docs/checkpoints.md.

state.py     what is kept of a run, and how m workers take over from n
files.py     tensors to files and back, without pickle
folder.py    names, the manifest, what is wrong with a checkpoint, which one is the newest good one
writer.py    the thread that writes
resume.py    from the command line to the checkpoint that a run goes on from
"""
