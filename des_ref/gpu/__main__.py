"""`python -m des_ref.gpu`."""

from des_ref.cli import run
from des_ref.gpu.program import main
from dessim.processes import leave

if __name__ == "__main__":
    leave(run("des_ref.gpu", main))
