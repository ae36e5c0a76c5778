"""Containers whose daemon, fork server, shims and processes are killed at random; what must be true then."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio import to_thread

from orlop import errors
from orlop.values import ContainerSpec, ContainerState
from tests.support.daemon import Daemon, cgroups_of, mounts_under, processes_naming

IMAGE = "probe"
CLIENTS = 3
KILLED = 128 + signal.SIGKILL
ASKED = 17
"""How a container that waits ends when it is asked to."""
WAITS = "trap 'exit 17' TERM; while :; do sleep 0.1; done"
FAULTS = ("daemon", "forks", "shim", "process")
WORK = ("make", "exec", "stop", "kill", "look")
_AWAY = (errors.Unavailable, errors.Cancelled, errors.DeadlineExceeded, errors.SessionClosed)
_SETTLED = 30.0
_CALL = 30.0
_SOON = 0.5


@dataclass
class Known:
    """One container as its client knows it. ``code`` is how it ends by itself, None where it never does.

    What was asked for and not answered may have happened or not: ``created`` and ``started`` are None then.
    """

    name: str
    code: int | None
    created: bool | None = None
    started: bool | None = False
    ends: set[int] = field(default_factory=set)
    """Codes that it may have for what was done to it."""
    doomed: bool = False
    """Whether somebody was told that it is killed or stopped."""
    hurt: bool = False
    """Whether its shim or its process was killed from outside."""
    id: str = ""

    def finding(self, state: ContainerState, code: int | None) -> str:
        """What is wrong with how it is; "" when nothing is."""
        allowed = set(self.ends)
        if self.code is not None:
            allowed.add(self.code)
        if self.hurt:
            allowed.add(KILLED)
        if state is ContainerState.STOPPED:
            fine = self.started is not False and code in allowed
            return "" if fine else f"ended with {code}, not {allowed}"
        if state is ContainerState.CREATED:
            return "" if self.started is not True or self.hurt else "was started and is not"
        if state is ContainerState.RUNNING and self.code is None and not self.ends and not self.hurt:
            return "" if self.started is not False else "runs and was never started"
        if state is ContainerState.RUNNING and not self.doomed and self.code is None:
            return ""
        return f"is {state.value}: {self}"


class Running:
    """A daemon with the containers of several clients."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.daemon = daemon
        self.random = random.Random(seed)
        self.known: dict[str, Known] = {}
        self.tally: Counter[str] = Counter()
        self._numbers = 0
        self._wrong: list[str] = []

    async def round(self, number: int) -> list[str]:
        """Let clients work while something is killed; what is wrong afterwards."""
        self._wrong = []
        # One after the other, so that even a short run has each, with others at random.
        faults = [FAULTS[number % len(FAULTS)]]
        faults += self.random.choices(FAULTS, (2, 2, 4, 3), k=self.random.randint(0, 2))
        self.random.shuffle(faults)
        async with anyio.create_task_group() as group:
            for _ in range(CLIENTS):
                group.start_soon(self._client, random.Random(self.random.getrandbits(60)))
            group.start_soon(self._hurt, faults, random.Random(self.random.getrandbits(60)))
        self.tally["rounds"] += 1
        await self._settle()
        self._wrong += await self._leftovers()
        return [f"round {number} ({'+'.join(faults)}): {each}" for each in self._wrong]

    async def finish(self) -> list[str]:
        """Remove everything; what is left then."""
        self._wrong = []
        async with self._connected() as client:
            for known in list(self.known.values()):
                await client.containers.remove(known.id or known.name, force=True)
                del self.known[known.name]
        self._wrong += await self._leftovers()
        self._wrong += await to_thread.run_sync(self._look_at_the_disk)
        return [f"at the end: {each}" for each in self._wrong]

    # --- Clients -------------------------------------------------------------------------------------------

    async def _client(self, chance: random.Random) -> None:
        with suppress(*_AWAY):
            async with self._connected() as client:
                with anyio.move_on_after(chance.uniform(0.3, 0.9)):
                    while True:
                        await self._step(client, chance)

    async def _step(self, client: Any, chance: random.Random) -> None:
        running = [k for k in self.known.values() if k.started is True and k.code is None and not k.ends]
        work = chance.choice((self._make, self._make, self._exec, self._stop, self._kill, self._look))
        known = None
        if work in (self._exec, self._stop, self._kill):
            if not running:
                return await anyio.sleep(0.01)
            known = chance.choice(running)
        with anyio.CancelScope(shield=True):  # a call is cut short by what is killed, not by its client
            try:
                with anyio.fail_after(_CALL):
                    await work(client, chance, known)
                self.tally[work.__name__[1:]] += 1
            except _AWAY:
                raise
            except (errors.FailedPrecondition, errors.NotFound, errors.InternalError) as error:
                # Two clients may have chosen the same, and what was killed cannot answer.
                if known is None or not (known.hurt or known.ends):
                    self._wrong.append(f"{work.__name__[1:]} of {known.name if known else '-'}: {error}")
            except Exception as error:
                self._wrong.append(f"{work.__name__[1:]} of {known.name if known else '-'}: {error!r}")
        return await anyio.lowlevel.checkpoint()

    async def _make(self, client: Any, chance: random.Random, _: Known | None) -> None:
        code = chance.choice((None, chance.randint(1, 99)))
        self._numbers += 1
        script = WAITS if code is None else f"sleep {chance.uniform(0, 0.5):.2f}; exit {code}"
        known = Known(f"c{self._numbers}", code)
        self.known[known.name] = known
        spec = ContainerSpec(image=IMAGE, name=known.name, args=("sh", "-c", script))
        known.id = (await client.containers.create(spec)).id
        known.created = True
        known.started = None
        try:
            async with client.containers.start(known.name) as session:
                await session.ready()
        except (errors.FailedPrecondition, errors.InternalError):
            if not known.hurt:
                raise
        else:
            known.started = True

    async def _exec(self, client: Any, chance: random.Random, known: Known | None) -> None:
        assert known is not None
        code = chance.randint(1, 99)
        async with client.containers.exec(known.name, ("sh", "-c", f"exit {code}")) as session:
            end = await session.wait()
        if end.code != code and not (end.code == KILLED and (known.hurt or known.ends)):
            self._wrong.append(f"an exec of {known.name} ended with {end.code}, not {code}")

    async def _stop(self, client: Any, chance: random.Random, known: Known | None) -> None:
        assert known is not None
        known.ends |= {ASKED, KILLED}  # the latter where the machine is too slow for the former
        await client.containers.stop(known.name, timeout=5)
        known.doomed = True

    async def _kill(self, client: Any, chance: random.Random, known: Known | None) -> None:
        assert known is not None
        known.ends.add(KILLED)
        await client.containers.kill(known.name)
        known.doomed = True

    async def _look(self, client: Any, chance: random.Random, _: Known | None) -> None:
        before = {known.name for known in self.known.values() if known.created}
        if missing := before - {each.name for each in await client.containers.list()}:
            self._wrong.append(f"not listed: {missing}")

    # --- Faults --------------------------------------------------------------------------------------------

    async def _hurt(self, faults: Sequence[str], chance: random.Random) -> None:
        for fault in faults:
            await anyio.sleep(chance.uniform(0.02, 0.5))
            self.tally[f"{fault} killed"] += await getattr(self, f"_kill_{fault}")(chance)

    async def _kill_daemon(self, chance: random.Random) -> int:
        await to_thread.run_sync(self.daemon.kill9)
        await anyio.sleep(chance.uniform(0, 0.3))
        await to_thread.run_sync(self.daemon.start)
        return 1

    async def _kill_forks(self, chance: random.Random) -> int:
        found = await to_thread.run_sync(processes_naming, str(self.daemon.state))
        killed = 0
        for pid in found:
            # A fork looks like its server until it is a shim, not to be killed here: looked at again.
            with suppress(OSError):
                if b"oci.shim.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes():  # noqa: ASYNC240
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed

    async def _kill_shim(self, chance: random.Random) -> int:
        return await self._kill_one(chance, "shim.pid")

    async def _kill_process(self, chance: random.Random) -> int:
        return await self._kill_one(chance, "init.pid")

    async def _kill_one(self, chance: random.Random, name: str) -> int:
        with anyio.move_on_after(_SOON):
            while True:
                by_id = {known.id: known for known in self.known.values() if known.id}
                if folders := [folder for folder in self._tasks() if folder.name in by_id]:
                    folders.sort(key=lambda folder: by_id[folder.name].name)
                    folder = chance.choice(folders)
                    if self._kill_in(folder, by_id[folder.name], name):
                        return 1
                await anyio.sleep(0.02)
        return 0

    def _kill_in(self, folder: Path, known: Known, name: str) -> bool:
        """Whether what the file names was there to be killed; a pid may be somebody else's by now."""
        where, sign = {"shim.pid": ("cmdline", folder.parent.name), "init.pid": ("cgroup", folder.name)}[name]
        try:
            pid = int((folder / name).read_text().split()[0])
            if sign not in Path(f"/proc/{pid}/{where}").read_text():
                return False
            known.hurt = True
            runs = known.started is True  # a shim that is killed before it serves is replaced
            os.kill(pid, signal.SIGKILL)
            known.doomed |= runs
        except (OSError, ValueError, IndexError):
            return False
        return True

    # --- What must be true ---------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Every container is as its client knows it; afterwards only some of those that run are kept."""
        if not self.daemon.running:
            await to_thread.run_sync(self.daemon.start)
        async with self._connected() as client:
            listed: dict[str, Any] = {}
            wrong: list[str] = []
            with anyio.move_on_after(_SETTLED):
                while True:
                    listed = {each.name: each for each in await client.containers.list()}
                    wrong = list(self._differences(listed))
                    if not wrong:
                        break
                    await anyio.sleep(0.1)
            self._wrong += wrong
            for name in {each.partition(":")[0] for each in wrong} & listed.keys():
                said = b"".join([line.data async for line in client.containers.logs(name)])
                self._wrong.append(f"{name} wrote {said[-500:]!r}")
            for name, known in list(self.known.items()):
                if name in listed:
                    await self._go_on(client, known, listed[name])
                else:
                    del self.known[name]

    def _differences(self, listed: dict[str, Any]) -> Iterator[str]:
        for name in listed.keys() - self.known.keys():
            yield f"{name}: nobody made it"
        for name, known in self.known.items():
            if name not in listed:
                if known.created:
                    yield f"{name}: lost"
                continue
            found = listed[name]
            if finding := known.finding(found.state, found.exit.code if found.exit else None):
                yield f"{name}: {finding}"

    async def _go_on(self, client: Any, known: Known, found: Any) -> None:
        known.id = found.id
        try:
            if found.state is ContainerState.STOPPED:
                said = (await client.containers.wait(known.name)).code
                if said != found.exit.code:
                    self._wrong.append(f"{known.name}: listed with {found.exit.code}, waited for {said}")
                if known.hurt and self.random.random() < 0.5:
                    async with client.containers.start(known.name) as session:
                        await session.ready()
                    self.tally["started anew"] += 1
            if found.state is not ContainerState.RUNNING or self.random.random() < 0.4:
                await client.containers.remove(known.name, force=True)
                del self.known[known.name]
            else:
                known.started = True
        except errors.OrlopError as error:
            self._wrong.append(f"{known.name}: afterwards: {error}")

    async def _leftovers(self) -> list[str]:
        """What is there beside what the known containers, all running, need."""
        look: Callable[[], list[str]] = self._look_for_leftovers
        found: list[str] = []
        with anyio.move_on_after(_SETTLED):
            while found := await to_thread.run_sync(look):  # noqa: ASYNC110
                await anyio.sleep(0.2)
        return found

    def _look_for_leftovers(self) -> list[str]:
        ids = {known.id for known in self.known.values()}
        found = [f"folder {path}" for path in self._tasks() if path.name not in ids]
        runtimes = self.daemon.state.glob(f"runtime/*/runc/{self.daemon.namespace}/*")
        found += [f"runtime state {path}" for path in runtimes if path.name not in ids]
        sockets = set(self.daemon.state.glob("runtime/*/s/*"))
        inner = {path for path in sockets if path.with_name(path.name[:-1]) in sockets}
        if len(sockets - inner) != len(ids):
            found.append(f"{len(sockets - inner)} sockets for {len(ids)} containers")
        for path in cgroups_of(self.daemon.namespace):
            if path.name != self.daemon.namespace and path.name.rpartition(":")[2] not in ids:
                found.append(f"cgroup {path}")
        mounts = [point for point in mounts_under(self.daemon.folder) if point.endswith("/rootfs")]
        found += [f"mount {point}" for point in mounts if Path(point).parent.name not in ids]
        if len(mounts) != len(ids):
            found.append(f"{len(mounts)} root filesystems for {len(ids)} containers")
        shims = Counter[str]()
        for pid, command in processes_naming(str(self.daemon.state)).items():
            words = command.split()
            if words and words[0] == "orlop-shim":
                shims[words[words.index("-id") + 1]] += 1
            elif words and Path(words[0]).name in ("runc", "crun"):
                found.append(f"process {pid}: {command}")
        found += [f"{count} shims of {each}" for each, count in shims.items() if each not in ids or count > 1]
        found += [f"no shim of {each}" for each in ids - shims.keys()]
        return found

    def _look_at_the_disk(self) -> list[str]:
        """What containers have beside their tasks, when there are none any more."""
        self.daemon.must(self.daemon.ctr("leases", "create", "--id", "collect"))
        self.daemon.must(self.daemon.ctr("leases", "rm", "--sync", "collect"))
        found = [f"folder {path}" for path in self.daemon.root.glob("containers/*/*")]
        snapshots = self.daemon.must(self.daemon.ctr("snapshots", "ls")).splitlines()[1:]
        found += [f"snapshot {line}" for line in snapshots if line.split()[-1] != "Committed"]
        found += [f"fifo {path}" for path in self.daemon.folder.rglob("*") if path.is_fifo()]
        return found

    def _tasks(self) -> list[Path]:
        return list(self.daemon.state.glob(f"runtime/*/tasks/{self.daemon.namespace}/*"))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        async with self.daemon.connect() as client:
            yield client
