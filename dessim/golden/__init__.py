"""Golden files: a question, its answer, and the inputs behind it, to notice and to explain when the answer changes.

`file` reads and writes them, `facts` lists what the inputs are, `changes` compares steps, `causes` says why they
changed, and `check` asks the question again.
"""
