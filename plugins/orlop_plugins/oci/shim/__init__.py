"""The shim: the process that owns a container's processes, streams, log and end, whoever else is alive."""
