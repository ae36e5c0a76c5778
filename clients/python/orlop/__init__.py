"""A client for Orlop, in Python."""
