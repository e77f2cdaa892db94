"""The equivalence certificate, `python -m des_ref.certify`. See program.py."""
