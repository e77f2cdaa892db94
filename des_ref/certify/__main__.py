"""`python -m des_ref.certify`."""

import sys

from des_ref.certify.program import main
from des_ref.cli import run

if __name__ == "__main__":
    sys.exit(run("des_ref.certify", main))
