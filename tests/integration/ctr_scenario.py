"""One long session of ``ctr``, step by step, to be played against two daemons."""

from __future__ import annotations

import re
import secrets
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.ctr import Said, ctr, events_in, masked
from tests.support.daemon import eventually

NAME = "docker.io/library/parity:v1"
OTHER = "docker.io/library/parity:v2"
ABSENT = "sha256:" + "0" * 64
CONTAINERS = {
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"),
    *("long", "made"),
}


@dataclass(frozen=True)
class Step:
    """What one step said; ``name`` is unique in a scenario."""

    name: str
    code: int
    text: str


class Scenario:
    """Plays the session against the daemon at ``address``; ``folder`` is its scratch space."""

    def __init__(self, address: str, archive: Path, folder: Path) -> None:
        self.address = address
        self.archive = archive
        self.folder = folder
        self.masks: list[tuple[str, str]] = [
            (re.escape(str(folder)), "FOLDER"),
            (re.escape(str(archive)), "ARCHIVE"),
        ]
        # Cgroups are named for namespace and id alone: another daemon's test may play the same session.
        self.tag = secrets.token_hex(3)
        self.masks.append((rf"-{self.tag}\b", ""))
        self.steps: list[Step] = []

    def run(self, *words: str, name: str = "", stdin: bytes = b"", sort: bool = False) -> Said:
        """One call of ctr, recorded. Words that name a container get this session's tag."""
        words = tuple(f"{word}-{self.tag}" if word in CONTAINERS else word for word in words)
        said = ctr(
            self.address, *words, stdin=stdin, hold=0.8 if stdin and words[0] in ("run", "tasks") else 0
        )
        out = "\n".join(sorted(said.out.splitlines())) if sort else said.out
        self.record(name or " ".join(words), said.code, f"{out}\n--- stderr\n{said.err}")
        return said

    def record(self, name: str, code: int, text: str) -> None:
        """One step that was played by other means."""
        taken = sum(step.name.split(" #")[0] == masked(name, *self.masks) for step in self.steps)
        label = masked(name, *self.masks) + (f" #{taken + 1}" if taken else "")
        self.steps.append(Step(label, code, masked(text, *self.masks)))

    def until(self, told: Callable[[], bool], what: str) -> None:
        """Wait for something that a daemon does after it answered."""
        deadline = time.monotonic() + 15
        while not told():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not happen at {self.address}")
            time.sleep(0.05)

    def status(self, task: str) -> str:
        """A task's status, as ``ctr tasks ls`` says it; empty when there is no such task."""
        for line in ctr(self.address, "tasks", "ls").out.splitlines()[1:]:
            if line.split()[0] == f"{task}-{self.tag}":
                return line.split()[2]
        return ""

    def play(self) -> list[Step]:
        """The whole session."""
        for part in (
            self.daemon,
            self.namespaces,
            self.images,
            self.content,
            self.snapshots,
            self.leases,
            self.runs,
            self.tasks,
            self.containers,
            self.removal,
        ):
            part()
        return self.steps

    def daemon(self) -> None:
        said = ctr(self.address, "version")
        self.record("version", said.code, said.out.split("Server:")[0] + "Server:")

    def namespaces(self) -> None:
        self.run("namespaces", "ls")
        self.run("namespaces", "create", "team", "a=b")
        self.run("namespaces", "create", "team")
        self.run("namespaces", "create", "not/valid")
        self.run("namespaces", "ls")
        self.run("namespaces", "label", "team", "c=d")
        self.run("namespaces", "label", "team", "a=")
        self.run("namespaces", "ls")
        self.run("namespaces", "ls", "-q")
        self.run("-n", "team", "images", "import", "--no-unpack", str(self.archive))
        self.run("namespaces", "rm", "team")
        self.run("-n", "team", "images", "rm", "--sync", NAME)
        self.run("-n", "team", "content", "ls")
        self.run("namespaces", "rm", "team")
        self.run("namespaces", "rm", "nosuch")

    def images(self) -> None:
        self.run("images", "import", str(self.archive))
        self.run("images", "ls")
        self.run("images", "ls", "-q")
        self.run("images", "ls", "name~=parity")
        self.run("images", "ls", "name==nothing")
        self.run("images", "ls", "name=~[")
        self.run("images", "check")
        self.run("images", "tag", NAME, OTHER)
        self.run("images", "tag", NAME, OTHER)
        self.run("images", "tag", "--force", NAME, OTHER)
        self.run("images", "tag", "docker.io/library/nothing:v1", "docker.io/library/other:v1")
        self.run("images", "label", OTHER, "team=a")
        self.run("images", "ls")
        self.run("images", "rm", OTHER)
        self.run("images", "rm", "docker.io/library/nothing:v1")
        exported = self.folder / "exported.tar"
        self.run("images", "export", str(exported), NAME)
        with tarfile.open(exported) as tar:
            listing = "\n".join(f"{m.name} {m.size} {m.mode:o} {m.type!r}" for m in tar)
        self.record("the exported archive", 0, listing)
        self.run("images", "export", str(exported), "docker.io/library/nothing:v1")
        target = self.folder / "mnt"
        target.mkdir()
        self.run("images", "mount", NAME, str(target))
        self.record("the mounted image", 0, "\n".join(sorted(p.name for p in target.iterdir())))
        self.run("images", "unmount", "--rm", str(target))
        self.run("snapshots", "ls")

    def content(self) -> None:
        listed = ("content", "ls", "-q")
        self.until(
            lambda: len(ctr(self.address, *listed).out.split()) == 3, "the sweep of the archive's index"
        )
        self.run("content", "ls", sort=True)
        digests = ctr(self.address, "content", "ls", "-q").out.split()
        self.record("content ls -q", 0, "\n".join(sorted(digests)))
        for number, digest in enumerate(sorted(digests)):
            said = ctr(self.address, "content", "get", digest)
            self.record(f"content get {number}", said.code, said.out if said.out.startswith("{") else "")
        self.run("content", "get", ABSENT)
        self.run("content", "get", "nonsense")
        self.run("content", "ingest", "greeting", stdin=b"hello, content\n")
        digest = "sha256:bc27bbd0a1a4a38eccdeb3ff63c8b6dbcd5e8a0e1be3d9b1fcdd6f3aff5ed6f2"
        self.run("content", "ingest", "--expected-digest", digest, "wrong", stdin=b"something else\n")
        self.run("content", "ingest", "--expected-size", "3", "short", stdin=b"four\n")
        self.run("content", "active", sort=True)
        self.run("content", "ls", "size==15", name="content ls (ingested)")
        self.run("content", "label", "sha256:" + "1" * 64, "a=b")
        self.run("content", "rm", ABSENT)

    def snapshots(self) -> None:
        base = ctr(self.address, "snapshots", "ls").out.split()[3]
        target = self.folder / "where"
        time.sleep(1)  # a collection that earlier steps brought about must not meet the view before its label
        self.run("snapshots", "prepare", "work", base)
        self.run("snapshots", "prepare", "work", base)
        self.run("snapshots", "prepare", "orphan", "nosuch")
        self.run("snapshots", "view", "look", base)
        self.run("snapshots", "label", "look", "containerd.io/gc.root=yes")
        self.run("snapshots", "mounts", str(target), "look")
        self.run("snapshots", "mounts", str(target), "nosuch")
        self.run("snapshots", "ls")
        self.run("snapshots", "tree", sort=True)
        self.run("snapshots", "info", "work")
        self.run("snapshots", "info", "nosuch")
        self.run("snapshots", "label", "work", "team=a")
        self.run("snapshots", "info", "work")
        self.run("snapshots", "commit", "again", "look")
        self.run("snapshots", "commit", "done", "work")
        self.run("snapshots", "prepare", "child", "done")
        self.run("snapshots", "ls")
        self.run("snapshots", "usage")
        self.run("snapshots", "usage", "nosuch")
        self.run("snapshots", "rm", "done")
        self.run("snapshots", "rm", "look")
        self.run("snapshots", "rm", "look")
        self.run("snapshots", "rm", "child")
        self.run("snapshots", "rm", "done")
        self.run("snapshots", "--snapshotter", "nosuch", "ls")

    def leases(self) -> None:
        self.run("leases", "ls")
        self.run("leases", "create", "--id", "kept", "-x", "1h", "team=a")
        self.run("leases", "create", "--id", "kept")
        self.run("leases", "ls")
        self.run("leases", "ls", "-q")
        self.run("leases", "rm", "kept")
        self.run("leases", "rm", "kept")
        self.run("leases", "ls")

    def runs(self) -> None:
        self.run("run", "--rm", NAME, "first", "sh", "-c", "echo hello; sleep 0.3")
        self.run("run", "--rm", NAME, "second", "sh", "-c", "echo to stderr >&2; exit 7")
        self.run("run", "--rm", NAME, "third", "sh", stdin=b"echo hi $((1+2))\n")
        self.run("run", "--rm", NAME, "fourth", "wc", "-c", stdin=b"x" * 300_000)
        self.run("run", "--rm", NAME, "fifth", "no-such-program")
        self.run("run", "--rm", "docker.io/library/nothing:v1", "sixth")
        self.run(
            "run",
            "--rm",
            "--env",
            "WORD=blue",
            "--cwd",
            "/bin",
            NAME,
            "seventh",
            "sh",
            "-c",
            "echo $WORD; pwd",
        )
        self.run("run", "--rm", "--read-only", NAME, "eighth", "sh", "-c", "echo x >/file")
        self.run("run", "--rm", NAME, "not/valid", "true")
        leftover = ("snapshots", "info", "not/valid")
        self.until(lambda: ctr(self.address, *leftover).code == 1, "the sweep of what a failed run left")
        self.run("run", "--rm", NAME, "ninth", "sh", "-c", "kill -9 $$")
        self.run("containers", "ls")
        self.run("snapshots", "ls")

    def tasks(self) -> None:
        self.run("run", "-d", NAME, "long", "sleep", "1000")
        self.run("run", "-d", NAME, "long", "sleep", "1000")
        self.mask_pids(ctr(self.address, "tasks", "ls").out)
        self.run("tasks", "ls")
        self.run("tasks", "ls", "-q")
        self.run("tasks", "ps", "long")
        metrics = ctr(self.address, "tasks", "metrics", f"long-{self.tag}")
        self.record(
            "tasks metrics", metrics.code, re.sub(r"(?m)( +)(\d+|\[[\d ]*\])\s*$", r"\1N", metrics.out)
        )
        # With a little time: ctr loses what a process writes at its very end.
        self.run("tasks", "exec", "--exec-id", "one", "long", "sh", "-c", "echo from exec; sleep 0.3")
        self.run(
            "tasks",
            "exec",
            "--exec-id",
            "two",
            "long",
            "sh",
            "-c",
            "cat; sleep 0.3; exit 9",
            stdin=b"through stdin",
        )
        self.run("tasks", "exec", "--exec-id", "three", "long", "no-such-program")
        self.run("tasks", "exec", "--exec-id", "four", "nosuch", "true")
        self.run("tasks", "pause", "long")
        self.run("tasks", "ls", name="tasks ls (paused)")
        self.run("tasks", "resume", "long")
        self.run("tasks", "resume", "nosuch")
        self.run("tasks", "ls", name="tasks ls (resumed)")
        self.run("tasks", "rm", "long")
        self.run("containers", "rm", "long")
        self.run("tasks", "kill", "--signal", "SIGKILL", "long")
        self.until(lambda: self.status("long") == "STOPPED", "the end of a killed task")
        self.run("tasks", "ls", name="tasks ls (stopped)")
        self.run("tasks", "kill", "long")
        self.run("tasks", "start", "long")
        self.run("tasks", "rm", "long")
        self.run("tasks", "rm", "long")
        self.run("tasks", "start", "-d", "long")
        self.mask_pids(ctr(self.address, "tasks", "ls").out)
        self.run("tasks", "kill", "-s", "9", "long")
        self.until(lambda: self.status("long") == "STOPPED", "the end of a task started again")
        self.run("tasks", "delete", "long")
        self.run("tasks", "kill", "nosuch")
        self.run("tasks", "ps", "nosuch")
        self.run("tasks", "metrics", "nosuch")
        self.run("tasks", "attach", "nosuch")
        self.run("containers", "rm", "long")
        self.run("tasks", "ls", name="tasks ls (none)")

    def containers(self) -> None:
        self.run("containers", "create", "--label", "team=a", NAME, "made", "sleep", "5")
        self.run("containers", "create", NAME, "made")
        self.run("containers", "ls")
        self.run("containers", "ls", "-q")
        self.run("containers", "ls", "labels.team==a")
        self.run("containers", "ls", "labels.team==b")
        self.run("containers", "info", "made")
        self.run("containers", "info", "nosuch")
        self.run("containers", "label", "made", "team=b", "more=c")
        self.run("containers", "ls", "labels.team==b")
        self.run("containers", "rm", "made")
        self.run("containers", "rm", "made")
        self.run("containers", "ls")

    def removal(self) -> None:
        self.run("images", "rm", "--sync", NAME)
        self.run("images", "ls")
        self.run("content", "ls", "-q", name="content after the sweep", sort=True)
        self.run("snapshots", "ls")

    def mask_pids(self, listing: str) -> None:
        """From here on the pids of this task listing are masked wherever they stand alone."""
        for line in listing.splitlines():
            if re.fullmatch(r"\S+ +\d+ +\S+\s*", line):
                self.masks.append((rf"\b{line.split()[1]}\b", "PID"))


def play_with_events(address: str, archive: Path, folder: Path) -> Iterator[Step]:
    """Play the session while ``ctr events`` listens; its lines are the last step."""
    scenario = Scenario(address, archive, folder)
    heard = folder / "events"
    with events_in(heard, address):
        yield from scenario.play()
        last = f"probe-{secrets.token_hex(4)}"
        for word in ("create", "rm"):
            assert ctr(address, "namespaces", word, last).code == 0
        eventually(heard.read_text, lambda text: text.count(last) == 2, 30)
    pids = r'"pid":\d+'
    lines = [line for line in heard.read_text().splitlines(keepends=True) if "probe-" not in line]
    text = masked("".join(lines), *scenario.masks, (pids, '"pid":PID'))
    yield Step("events", 0, "\n".join(line for line in text.splitlines() if not newer(line)))


def newer(line: str) -> bool:
    """Whether a line tells of an event that containerd publishes since 2.x and not in Debian's 1.6.

    It publishes the creation of content, of which this ctr says that it cannot decode it, and the removal
    of snapshots by the collector, of which the session leaves two to it.
    """
    return "containerd.events.ContentCreate" in line or bool(
        re.search(r'/snapshot/remove \{"key":"(?:sha256:\w+|not/valid)"\}', line)
    )
