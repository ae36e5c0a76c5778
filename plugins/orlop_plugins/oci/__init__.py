"""Runtimes that follow the OCI runtime specification (runc, crun and kin), one shim process per task."""
