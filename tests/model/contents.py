"""The model's blobs and ingests."""

from __future__ import annotations

from collections.abc import Sequence

from tests.model.client import Where
from tests.model.rooms import Rooms, Row, Stream, digest_of, get, kept, relabel
from tests.model.values import Ingest, Labels, Refused

SHAREABLE = "containerd.io/namespace.shareable"


class Contents(Rooms):
    """Blobs by digest, ingests by ref."""

    # --- Content -------------------------------------------------------------------------------------

    def contents(self, where: Where) -> dict[str, tuple[int, Labels]]:
        return dict(self._seen(where).contents)

    def info(self, where: Where, digest: str) -> tuple[int, Labels]:
        return get(self._seen(where).contents, digest)

    def read(self, where: Where, digest: str, offset: int, size: int) -> bytes:
        self.info(where, digest)
        data = self.disk[digest]
        if offset > len(data):
            raise Refused("OUT_OF_RANGE")
        return data[offset : offset + size] if size else data[offset:]

    def label(self, where: Where, digest: str, labels: Labels, paths: Sequence[str]) -> Labels:
        size, current = self.info(where, digest)
        changed = relabel(current, labels, paths)
        self._seen(where).contents[digest] = (size, changed)
        return changed

    def delete_content(self, where: Where, digest: str) -> None:
        self.info(where, digest)
        del self._seen(where).contents[digest]
        self._let_go(where, "content", digest)

    # --- Ingests -------------------------------------------------------------------------------------

    def ingests(self, where: Where) -> dict[str, Ingest]:
        rows = self._seen(where).ingests
        return {ref: _status(row) for ref, row in rows.items() if row.data is not None}

    def status(self, where: Where, ref: str) -> Ingest:
        return get(self.ingests(where), ref)

    def abort(self, where: Where, ref: str) -> None:
        row = get(self._seen(where).ingests, ref)
        del self._seen(where).ingests[ref]
        self._take(row)
        self._let_go(where, "ingests", ref)

    def open(self, where: Where, ref: str, total: int, expected: str) -> Stream:
        """The first message of a Write."""
        room = self._seen(where)
        if expected and expected in room.contents:
            if lease := self._lease(where):
                lease.resources.add(("content", expected))
            raise Refused("ALREADY_EXISTS")
        shared = self._shared(expected, total)
        lease = self._lease(where)
        row = room.ingests.get(ref)
        if shared is None and row is not None and row.stream is not None:
            raise Refused("UNAVAILABLE")
        if row is None:
            row = self._made(where).ingests[ref] = Row()
        if lease is None:
            row.unleased = True
        else:
            lease.resources.add(("ingests", ref))
        stream = Stream(where, ref, row, shared, total, expected)
        if shared is not None:
            row.expected = expected
        else:
            self._attach(stream, total)
        return stream

    def _shared(self, digest: str, total: int) -> bytes | None:
        data = self.disk.get(digest)
        if data is None or total not in {0, len(data)}:
            return None
        shareable = any(
            digest in room.contents and room.labels.get(SHAREABLE) == "true" for room in self.rooms.values()
        )
        return data if self._sharing or shareable else None

    @staticmethod
    def _attach(stream: Stream, total: int) -> None:
        row = stream.row
        if row.data is None:
            row.data, row.total = b"", total
        row.live_total = row.total or total
        row.stream = stream
        stream.shared = None

    def close(self, stream: Stream) -> None:
        """The end of a Write."""
        if stream.row.stream is stream:
            stream.row.stream = None

    def send(
        self,
        stream: Stream,
        offset: int,
        data: bytes,
        *,
        commit: bool,
        total: int,
        expected: str,
        labels: Labels,
    ) -> tuple[int, str]:
        """A later message of a Write: offset and digest of the answer."""
        if expected:
            stream.expected = expected
            if expected in self._seen(stream.where).contents:
                if lease := self._lease(stream.where):
                    lease.resources.add(("content", expected))
                if stream.ref in self._seen(stream.where).ingests:
                    self.abort(stream.where, stream.ref)
                raise Refused("ALREADY_EXISTS")
        stream.total = total or stream.total
        if offset and offset != stream.offset:
            raise Refused("OUT_OF_RANGE")
        if not offset and stream.offset:
            self._own(stream, 0)
            stream.row.data = b""
        if data:
            self._own(stream, stream.offset)
            stream.row.data = (stream.row.data or b"") + data
        at = stream.offset
        if commit:
            return at, self._commit(stream, labels)
        if stream.gone_at is not None:
            raise Refused("ABORTED")
        return at, stream_digest(stream)

    def _own(self, stream: Stream, size: int) -> None:
        """What is written is one's own, no longer another's."""
        if stream.gone_at is not None:
            raise Refused("ABORTED")
        if stream.shared is None:
            return
        if not self._has_row(stream):
            raise Refused("ABORTED")
        if stream.row.stream is not None:
            raise Refused("UNAVAILABLE")
        copied = stream.shared[:size]
        self._attach(stream, 0)
        stream.row.data = copied

    def _commit(self, stream: Stream, labels: Labels) -> str:
        where = stream.where
        if stream.total and stream.total != stream.offset:
            raise Refused("FAILED_PRECONDITION")
        if stream.gone_at is not None:
            raise Refused("ABORTED")
        data = stream.row.data if stream.shared is None else stream.shared
        assert data is not None
        algorithm = stream.expected.partition(":")[0] or "sha256"
        actual = digest_of(data, algorithm)
        if stream.expected and stream.expected != actual:
            raise Refused("FAILED_PRECONDITION")
        if stream.shared is None:
            self.disk[actual] = data
            stream.row.data = stream.row.stream = None
        elif not self._has_row(stream) or actual not in self.disk:
            raise Refused("ABORTED")
        lease = self._lease(where)
        room = self._made(where)
        if self._has_row(stream):
            del room.ingests[stream.ref]
            # Bytes that were sent before, or are being sent by another, are nobody's now.
            self._orphans.append(stream.row)
        self._let_go(where, "ingests", stream.ref)
        if lease is not None:
            lease.resources.add(("content", actual))
        if actual in room.contents:
            raise Refused("ALREADY_EXISTS")
        room.contents[actual] = (len(data), kept(labels))
        return actual


def stream_digest(stream: Stream) -> str:
    """The digest that an answer of a Write shows."""
    return digest_of(stream.shared if stream.shared is not None else stream.row.data or b"")


def _status(row: Row) -> Ingest:
    return Ingest(len(row.data or b""), row.live_total if row.stream is not None else row.total)
