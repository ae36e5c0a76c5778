"""What a random walk through the storage keeps: the model beside the daemon, and what was done so far."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from orlop_protos.containerd.services.content.v1 import content_pb2
from tests.model import together
from tests.model.client import Client, Where, Writer
from tests.model.drawing import BLOBS, SNAPSHOTTER
from tests.model.model import Model, Stream, digest_of, stream_digest
from tests.model.rig import Rig
from tests.model.values import Image, Labels, Refused, Target

KINDS = ("contents", "ingests", "images", "leases", "snapshots", "containers")
LOOKS = {*KINDS, "resources", "info", "read", "stat", "mounts", "status", "namespaces"}
"""Calls that change nothing."""

_numbers = itertools.count()


class Difference(AssertionError):
    """The daemon and the model do not agree."""


class Walk(RuleBasedStateMachine):
    """Two namespaces over a daemon and over the model, and the writers that are open."""

    rig: Rig
    statistics: dict[str, int]
    found: list[str]
    """Every difference, in words."""
    difference: type[BaseException] = Difference

    def __init__(self) -> None:
        super().__init__()
        self.salt = f"m{next(_numbers)}"
        self.model = Model(SNAPSHOTTER, sharing=self.rig.sharing)
        self.client = self.rig.client
        self.streams: list[tuple[Stream, Writer]] = []
        self.told: list[str] = []
        self.agreed = True
        self._count("walks")
        self.rig.collect()
        self.blobs_before, self.snapshots_before = self.rig.blobs(), self.rig.snapshots()

    def where(self, room: int, lease: str = "") -> Where:
        return Where(f"{self.salt}{'ab'[room]}", lease)

    def data(self, blob: int) -> bytes:
        return f"{self.salt} {blob}".encode() + b"." * (3 * blob)

    def digest(self, blob: int, algorithm: str = "sha256") -> str:
        return digest_of(self.data(blob), algorithm)

    def value(self, drawn: Any) -> str:
        return self.digest(drawn[1]) if isinstance(drawn, tuple) else drawn

    def labels(self, drawn: Sequence[tuple[str, Any]]) -> Labels:
        return {key: self.value(value) for key, value in drawn}

    @staticmethod
    def paths(mask: str, drawn: Sequence[tuple[str, Any]]) -> list[str]:
        if mask == "keys":
            return [f"labels.{key}" for key, _ in drawn] or ["labels.plain"]
        return [mask] if mask else []

    def differ(self, text: str) -> BaseException:
        self.agreed = False
        told = "".join(f"\n{number:4} {line}" for number, line in enumerate(self.told, 1))
        self.found.append(f"{self._plainly(text)}; after{told}")
        return self.difference(self.found[-1])

    def _plainly(self, text: str) -> str:
        """The names as the rules have them: ``blob1`` for its digest, ``a`` for the namespace."""
        for blob in BLOBS:
            for algorithm, suffix in (("sha256", ""), ("sha512", "/512")):
                text = text.replace(self.digest(blob, algorithm), f"blob{blob}{suffix}")
        return text.replace(self.salt, "")

    def _count(self, what: str) -> None:
        self.statistics[what] = self.statistics.get(what, 0) + 1

    def tell(self, where: Where, what: str, outcome: Any) -> None:
        """Remember a call, for who has to find out why daemon and model differ."""
        lease = f", lease {where.lease}" if where.lease else ""
        result = outcome.code if isinstance(outcome, Refused) else "ok"
        self.told.append(self._plainly(f"{where.namespace}{lease}: {what} -> {result}"))

    def compare(self, what: str, expected: Callable[[], Any], actual: Callable[[], Any]) -> Any:
        """What both gave; the refusal if both refused."""
        self._count(what)
        wanted, found = together.outcome(expected), together.outcome(actual)
        if not together.alike(wanted, found):
            raise self.differ(f"{what}: the model says {wanted!r}, the daemon {found!r}")
        return wanted

    def both(self, method: str, *args: Any, **options: Any) -> Any:
        """Call the model and the daemon; what both gave, None if both refused."""
        try:
            result = self.compare(
                method,
                lambda: getattr(self.model, method)(*args, **options),
                lambda: getattr(self.client, method)(*args, **options),
            )
        except BaseException as error:
            error.add_note(self._plainly(f"at {method}{args}{options or ''}"))
            raise
        if method not in LOOKS:
            where = args[0] if isinstance(args[0], Where) else Where(args[0])
            words = [repr(each) for each in args[1:]] + [f"{key}={value!r}" for key, value in options.items()]
            self.tell(where, f"{method}({', '.join(words)})", result)
        if isinstance(result, Refused):
            return None
        if options.get("sync"):
            self.check_all()
        return result

    def check_all(self) -> None:
        """Compare everything that can be seen."""
        wanted, found = self._seen(self.model), self._seen(self.client)
        for key in {**wanted, **found}:
            self._count(key[-1])
            if wanted.get(key) != found.get(key):
                where = f"{key[0]}: {' '.join(key[1:])}"
                raise self.differ(
                    f"{where}: the model says {wanted.get(key)!r}, the daemon {found.get(key)!r}"
                )

    def _seen(self, source: Model | Client) -> dict[tuple[str, ...], Any]:
        """Everything that can be seen, of the model or the daemon."""
        names = source.namespaces()
        seen: dict[tuple[str, ...], Any] = {
            ("", "namespaces"): {name: names[name] for name in names if name.startswith(self.salt)}
        }
        # What is no namespace holds nothing: not asked, which is half of the time of a walk.
        for where in (self.where(room) for room in (0, 1) if self.where(room).namespace in names):
            for method in KINDS:
                seen[where.namespace, method] = getattr(source, method)(where)
            for lease in seen[where.namespace, "leases"]:
                seen[where.namespace, lease, "resources"] = source.resources(where, lease)
        return seen

    def _together(self, calls: Sequence[together.Call]) -> None:
        """Make calls at the same time, and have the model go the way that explains what came of them."""
        answers = together.make(calls, self.client, self.rig)
        for call, answer in zip(calls, answers, strict=True):
            self.tell(call.where, f"  at once: {call}", answer[-1])
            self._count(f"{call.name} at once")
        start = together.State(self.model, [stream for stream, _ in self.streams])
        ends = together.explain(start, calls, answers)
        if not ends:
            raise self.differ(f"no order of the calls made at once explains what they answered: {answers}")
        # A collection among them may leave for the next what it came upon half done.
        if not any(isinstance(call, together.Collect) for call in calls):
            ends = self._those_that_show(self._seen(self.client), ends)
        self.rig.collect()
        for end in ends:
            end.model.collect()
        self.told.append("collect")
        ends = self._those_that_show(self._seen(self.client), ends)
        self.model = ends[0].model
        self.streams = [(s, writer) for s, (_, writer) in zip(ends[0].streams, self.streams, strict=True)]
        self.check_disk()

    def _those_that_show(
        self, seen: dict[tuple[str, ...], Any], ends: Sequence[together.State]
    ) -> list[together.State]:
        views = [(end, self._seen(end.model)) for end in ends]
        found = [end for end, view in views if view == seen]
        if not found:
            view = views[0][1]
            keys = [key for key in {**seen, **view} if seen.get(key) != view.get(key)]
            raise self.differ(
                "no order of the calls made at once explains what is there now: "
                + "; ".join(
                    f"{key}: one model of {len(views)} says {view.get(key)!r}, the daemon {seen.get(key)!r}"
                    for key in keys
                )
            )
        return found

    def check_disk(self) -> None:
        """Compare what lies on the disk; right after a collection."""
        self.compare(
            "blobs on the disk", lambda: set(self.model.disk), lambda: self.rig.blobs() - self.blobs_before
        )
        self.compare(
            "ingests on the disk", lambda: self.model.ingest_count, lambda: self.rig.ingests(self.salt)
        )
        held = sum(len(self.model.snapshots(self.where(room))) for room in (0, 1))
        self.compare(
            "snapshots on the disk", lambda: held, lambda: self.rig.snapshots() - self.snapshots_before
        )

    def _collect(self) -> None:
        self.model.collect()
        self.rig.collect()
        self.told.append("collect")
        self.check_all()
        self.check_disk()

    def _open(self, where: Where, ref: str, blob: int, *, named: bool, sized: bool) -> bool:
        expected = self.digest(blob) if named else ""
        total = len(self.data(blob)) if sized else 0
        writer = self.client.writer(where)
        opened: list[Stream] = []

        def wanted() -> tuple[int, str]:
            stream = self.model.open(where, ref, total, expected)
            opened.append(stream)
            return stream.offset, stream_digest(stream)

        request = content_pb2.WriteContentRequest(
            action=content_pb2.STAT, ref=ref, total=total, expected=expected
        )
        answer = self.compare("open", wanted, lambda: writer.send(request))
        self.tell(where, f"open({ref!r}, total={total}, expected={expected!r})", answer)
        if isinstance(answer, Refused):
            writer.close()
            return False
        self.streams.append((opened[0], writer))
        return True

    def _send(
        self,
        index: int,
        blob: int,
        start: str,
        much: str,
        commit: bool,
        labels: Labels,
        wrong: str = "",
        named: str = "",
    ) -> None:
        stream, writer = self.streams[index]
        data = self.data(blob)
        offset = {"end": stream.offset, "zero": 0, "beyond": stream.offset + 7}[start]
        rest = data[offset:]
        piece = {"rest": rest, "some": rest[: len(rest) // 2], "nothing": b""}[much]
        expected = self.digest(blob, named) if commit and named else ""
        if wrong == "digest" and commit:
            expected = digest_of(f"{self.salt} wrong".encode())
        total = len(data) + 1 if wrong == "size" and commit else 0
        request = content_pb2.WriteContentRequest(
            action=content_pb2.COMMIT if commit else content_pb2.WRITE,
            offset=offset,
            data=piece,
            total=total,
            expected=expected,
            labels=labels,
        )
        answer = self.compare(
            "commit" if commit else "write",
            lambda: self.model.send(
                stream, offset, piece, commit=commit, total=total, expected=expected, labels=labels
            ),
            lambda: writer.send(request),
        )
        what = (
            f"{'commit' if commit else 'write'}({stream.ref!r}, offset={offset}, data={piece!r}, "
            f"total={total}, expected={expected!r}, labels={labels})"
        )
        self.tell(stream.where, what, answer)
        if commit or isinstance(answer, Refused):
            self._close(index)
            # What was refused can still be looked at.
            self.both("status", stream.where, stream.ref)

    def _close(self, index: int) -> None:
        stream, writer = self.streams.pop(index)
        writer.close()
        self.model.close(stream)
        self.told.append(self._plainly(f"{stream.where.namespace}: close({stream.ref!r})"))

    def _put(self, where: Where, blob: int, labels: Labels, *, named: bool) -> None:
        if self._open(where, f"put-{len(self.streams)}", blob, named=named, sized=named):
            much = "nothing" if self.streams[-1][0].shared is not None else "rest"
            start = "end" if much == "nothing" else "zero"
            self._send(len(self.streams) - 1, blob, start, much, True, labels)

    def _image(self, blob: int, labels: Any, note: str) -> Image:
        return Image(Target(self.digest(blob), 10, {"note": note, "b": str(blob)}), self.labels(labels))

    def _delete_namespace(self, name: str) -> None:
        held = self.model.holds(name)
        said: list[str] = []

        def delete() -> None:
            try:
                self.client.delete_namespace(name)
            except Refused as error:
                said.append(error.message)
                raise

        answer = self.compare("delete_namespace", lambda: self.model.delete_namespace(name), delete)
        self.tell(Where(name), "delete_namespace()", answer)
        if held and not all(f" {word}" in said[0] for word in held):
            raise self.differ(f"the refusal to delete a namespace names not all of {held}: {said[0]}")

    def _namespaces(self) -> dict[str, Labels]:
        return {n: labels for n, labels in self.client.namespaces().items() if n.startswith(self.salt)}

    def teardown(self) -> None:
        while self.streams:
            self._close(0)
        if not self.agreed:
            return
        self._collect()
        for room in (0, 1):
            self._empty(self.where(room))
        self._collect()
        self.compare("bytes left at the end", dict, lambda: self.model.disk)

    def _empty(self, where: Where) -> None:
        for lease in self.model.leases(where):
            self.both("delete_lease", where, lease, sync=False)
        for image in self.model.images(where):
            self.both("delete_image", where, image, sync=False)
        for container in self.model.containers(where):
            self.both("delete_container", where, container)
        for digest in self.model.contents(where):
            self.both("delete_content", where, digest)
        while keys := list(self.model.snapshots(where)):
            for key in keys:
                with suppress(KeyError):
                    self.both("remove_snapshot", where, key)
        if where.namespace in self.model.rooms:
            self._delete_namespace(where.namespace)
