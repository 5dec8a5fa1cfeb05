"""Attacks on the wire, tried in every state: see README.md."""
