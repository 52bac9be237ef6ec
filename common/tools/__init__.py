"""Offline commands that nothing else imports."""
