"""Verifiers: digests pinned by config, and programs of an administrator."""
