"""Checks of the trainer on a machine's GPUs, `python -m des_ref.gpu` (`make gpu`). See docs/gpu.md.

program.py     command line, table, JSON
processes.py   runs a function on ranks that are processes of their own
values.py      tables, codecs, optimizers and sums against the CPU
training.py    whole steps on one GPU: same bits, checkpoints, waits of the host, memory
ranks.py       any number of GPUs: certificate, replicas, servers, kill and resume, steps measured and predicted
checks.py      the list
"""
