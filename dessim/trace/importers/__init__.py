"""Importers of profiles that other tools wrote."""
