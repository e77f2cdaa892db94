"""The equivalence certificate, `python -m des_ref.certify`; program.py says what it does."""
