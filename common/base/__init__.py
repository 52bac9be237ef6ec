"""Errors, files, command lines, settings: what everything else stands on; no torch here."""
