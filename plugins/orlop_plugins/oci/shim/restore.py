"""The arguments with which an OCI runtime checkpoints and restores."""

from __future__ import annotations

from pathlib import Path

from orlop_protos.containerd.runc.v1 import oci_pb2


def checkpoint_args(options: oci_pb2.CheckpointOptions, path: str, folder: Path) -> list[str]:
    """Arguments of the runtime's ``checkpoint``, its container's id apart."""
    args = ["--image-path", path, "--work-path", options.work_path or str(folder / "criu-work")]
    for flag, wanted in (
        ("--tcp-established", options.open_tcp),
        ("--ext-unix-sk", options.external_unix_sockets),
        ("--shell-job", options.terminal),
        ("--file-locks", options.file_locks),
        ("--leave-running", not options.exit),
    ):
        if wanted:
            args.append(flag)
    for name in options.empty_namespaces:
        args += ["--empty-ns", name]
    if options.cgroups_mode:
        args += ["--manage-cgroups-mode", options.cgroups_mode]
    return args


def restore_args(options: oci_pb2.Options, checkpoint: str, parent: str, folder: Path) -> list[str]:
    """Arguments of the runtime's ``restore``, the common ones and the id apart."""
    work = options.criu_work_path or str(folder / "criu-work")
    args = ["--detach", "--no-subreaper", "--image-path", checkpoint, "--work-path", work]
    if parent:
        args += ["--parent-path", parent]
    return args
