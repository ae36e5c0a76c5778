"""The daemon under SIGKILL, power cuts, full disks and disks that fail."""
