"""What happens in a transfer, in the words that containerd's clients look for."""

from __future__ import annotations

from collections.abc import Sequence

from orlop_protos.containerd.types import descriptor_pb2
from orlop_protos.containerd.types.transfer import progress_pb2
from orlopd.core.progress import BlobProgress, BlobState, PullEvent, Resolved
from orlopd.plugin.errors import Aborted
from orlopd.plugin.values import Image
from orlopd.services.convert import to_descriptor

from .streaming import Stream

_WORDS = {
    BlobState.WAITING: "waiting",
    BlobState.FETCHING: "downloading",
    BlobState.FETCHED: "complete",
    BlobState.EXISTS: "already exists",
    BlobState.UNPACKING: "extracting",
    BlobState.UNPACKED: "extracted",
    BlobState.PUSHING: "uploading",
    BlobState.PUSHED: "complete",
    BlobState.MOUNTED: "already exists",
}


class Teller:
    """Writes progress to a stream, if there is one; a client that stops reading it stops nothing else."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream
        self._root = ""
        self._second = ""
        self._pushing = False
        self._last: Sequence[tuple[str, Image | None]] = ()

    def begin(self, root: str, second: str, *, pushing: bool = False) -> None:
        """A pull or a push begins, of what is called ``root``; ``second`` is said when it is resolved."""
        self._root, self._second, self._pushing = root, second, pushing

    async def say(self, event: str, image: Image | None = None) -> None:
        """Tell of the whole."""
        message = progress_pb2.Progress(event=event)
        if image is not None:
            message.name = image.name
            message.desc.CopyFrom(to_descriptor(image.target))
        await self._write(message)

    async def send(self, event: PullEvent) -> None:
        """Tell of a part."""
        if isinstance(event, Resolved):
            if self._second:
                await self.say(self._second)
            word = "pushing content" if self._pushing else "fetching image content"
            self._root = event.name if not self._pushing else self._root
            about = descriptor_pb2.Descriptor(media_type=event.media_type, digest=event.digest)
            await self._write(progress_pb2.Progress(event=word, name=self._root, desc=about))
            return
        await self._write(_of_blob(event, self._root))

    def finish(self, last: Sequence[tuple[str, Image | None]]) -> None:
        """What to tell at the end."""
        self._last = last

    async def end(self) -> None:
        """Tell the end."""
        for event, image in self._last:
            await self.say(event, image)

    async def _write(self, message: progress_pb2.Progress) -> None:
        if self._stream is None:
            return
        try:
            await self._stream.send(message)
        except Aborted:
            self._stream = None


def _of_blob(event: BlobProgress, root: str) -> progress_pb2.Progress:
    return progress_pb2.Progress(
        event=_WORDS[event.state],
        name=f"{event.kind.value}-{event.digest}",
        parents=[root] if root else [],
        progress=event.current,
        total=event.total,
        desc=descriptor_pb2.Descriptor(digest=event.digest, size=event.total),
    )
