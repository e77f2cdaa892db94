"""Checkpoints: the state a run needs to resume, written in the background, whole or not at all (docs/checkpoints.md).

state.py     what a checkpoint stores, and how m workers take over from n
files.py     tensors to files and back, without pickle
folder.py    file names, the manifest, checks for damage, the list of checkpoints in a folder
writer.py    the thread that writes
resume.py    from the command line to the checkpoint that a run resumes from
"""
