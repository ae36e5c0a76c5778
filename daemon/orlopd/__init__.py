"""Orlop's daemon: gRPC services over a core over plugins."""
