"""The real runtime, but for what CRIU would do, which cannot work on every kernel: that is written down."""

from __future__ import annotations

from pathlib import Path

_SCRIPT = """#!/bin/sh
after() { want=$1; shift; while [ $# -gt 1 ]; do [ "$1" = "$want" ] && echo "$2"; shift; done; }
for word; do case $word in
    checkpoint)
        printf '%s\\n' "$@" >{record}/checkpoint
        echo >{record}/begun-$$
        while [ -e {record}/hold ]; do sleep 0.02; done
        folder=$(after --image-path "$@")
        echo "pages of $(eval echo \\${$#})" >"$folder/pages-1.img"
        ln -s pages-1.img "$folder/latest"
        exit 0;;
    restore)
        printf '%s\\n' "$@" >{record}/restore
        cp -a "$(after --image-path "$@")" {record}/restored || exit
        while [ "$1" != restore ]; do set -- "$@" "$1"; shift; done
        shift
        bundle= pid= id=
        while [ $# -gt 0 ]; do case $1 in
            --root) root=$2; shift 2;;
            --log) log=$2; shift 2;;
            --log-format) shift 2;;
            --bundle) bundle=$2; shift 2;;
            --pid-file) pid=$2; shift 2;;
            --image-path|--work-path) shift 2;;
            --detach|--no-subreaper) shift;;
            *) id=$1; shift;;
        esac; done
        set -- --root "$root" --log "$log" --log-format json
        exec runc "$@" run --detach --bundle "$bundle" --pid-file "$pid" "$id";;
esac; done
exec runc "$@"
"""


def recorder(folder: Path) -> Path:
    """A program that runs as runc does. What it was told of a checkpoint or a restore is in ``checkpoint``
    and ``restore`` of ``folder``, an argument a line; what was to be restored, in the folder ``restored``.
    A checkpoint that has begun makes a file ``begun-*``, and waits while there is a file ``hold``.
    """
    program = folder / "recorder"
    program.write_text(_SCRIPT.replace("{record}", str(folder)))
    program.chmod(0o755)
    return program
