"""run and create."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from orlop.cli.base import ENGINE_FAILED, verb, with_client
from orlop.cli.options import Wish, spec_options, wish

if TYPE_CHECKING:
    from orlop._session import Session
    from orlop.cli.progress import Display
    from orlop.client import Client
    from orlop.values import Credentials

DETACH_KEYS = "ctrl-p,ctrl-q"
SPEC_SETTINGS: dict[str, Any] = {
    "failure_code": ENGINE_FAILED,
    # What follows the image belongs to the container, dashes and all.
    "context_settings": {"allow_interspersed_args": False},
}
CLEAN_UP_SECONDS = 5.0

detach_keys_option = click.option(
    "--detach-keys",
    default=DETACH_KEYS,
    show_default=True,
    metavar="KEYS",
    help="What to type to leave it running.",
)


@verb("run", **SPEC_SETTINGS)
@spec_options
@click.option("-d", "--detach", is_flag=True, help="Leave it running and print its id.")
@detach_keys_option
@with_client
async def run(client: Client, *, detach: bool, detach_keys: str, **options: Any) -> int:
    """Run a command in a new container.

    The exit code is the command's own; 125 means that Orlop failed, 126 that the command cannot be executed,
    127 that there is none of this name. Without -t, ctrl-C asks the container to end, and kills it when
    pressed again.
    """
    from asyncio import CancelledError

    from orlop.cli.interact import Interaction, MainProcess, streams
    from orlop.cli.progress import display

    asked = wish(**options)
    spec = asked.spec
    connected = streams(
        stdin=spec.stdin and not detach, tty=spec.terminal and not detach, detach_keys=detach_keys
    )
    with display(transient=True) as shown:
        made = await create_with_copies(client, asked, shown) if asked.copies else None
        credentials = None if made else await pull_credentials(client, asked)
        session = open_session(client, asked, made, credentials, detach, connected.window())
        async with session:
            try:
                await started(session, shown)
            except CancelledError:
                await abandon(client, made or session.id)
                raise
            except Exception:
                if made:
                    await abandon(client, made)
                raise
            shown.close()
            identity = made or session.id
            if detach:
                click.echo(identity)
                return 0
            return await Interaction(
                session,
                MainProcess(client, identity),
                connected,
                name=session.name or identity[:12],
                ends_with_reader=True,
            ).run()


@verb("create", **SPEC_SETTINGS)
@spec_options
@with_client
async def create(client: Client, **options: Any) -> None:
    """Make a container without starting it, and print its id."""
    from orlop.cli.progress import display

    with display(transient=True) as shown:
        identity = await create_with_copies(client, wish(**options), shown)
    click.echo(identity)


def open_session(
    client: Client,
    asked: Wish,
    made: str | None,
    credentials: Credentials | None,
    detach: bool,
    window: Any,
) -> Session:
    """The session of a container that is made already, or of one that is to be made."""
    from orlop.values import PullPolicy

    if made:
        return client.containers.start(made, attach=not detach, window=window)
    return client.containers.run(
        asked.spec,
        pull=PullPolicy(asked.pull_policy),
        plain_http=asked.plain_http,
        credentials=credentials,
        detach=detach,
        window=window,
    )


async def pull_credentials(client: Client, asked: Wish) -> Credentials | None:
    """Those of Docker's config, looked for only where a pull may come: a helper can be slow."""
    from orlop.credentials import DockerConfig
    from orlop.errors import NotFound

    image = asked.spec.image
    if not image or asked.pull_policy == "never":
        return None
    config = DockerConfig.load()
    if not config.knows(image):
        return None
    if asked.pull_policy == "missing":
        try:
            await client.images.get(image)
        except NotFound:
            pass
        else:
            return None
    return await config.find(image)


async def started(session: Session, shown: Display) -> None:
    """Show progress until the process runs."""
    while not session.running and (event := await session.next_event()) is not None:
        shown.step(event)


async def create_with_copies(client: Client, asked: Wish, shown: Display) -> str:
    """Make the container in steps: its image, itself, what is copied into it. Returns its id."""
    from orlop import archive

    if asked.spec.image:
        await ensure_image(client, asked, shown)
    container = await client.containers.create(asked.spec)
    if asked.copies:
        try:
            await client.containers.copy_in(container.id, archive.stream(archive.copies(list(asked.copies))))
        except BaseException:
            await abandon(client, container.id)
            raise
    return container.id


async def ensure_image(client: Client, asked: Wish, shown: Display) -> None:
    """Pull the image as the policy says."""
    from orlop.credentials import find_credentials
    from orlop.errors import NotFound

    if asked.pull_policy == "never":
        return
    if asked.pull_policy == "missing":
        try:
            await client.images.get(asked.spec.image)
        except NotFound:
            pass
        else:
            return
    async for step in client.images.pull(
        asked.spec.image,
        credentials=await find_credentials(asked.spec.image),
        platform=asked.spec.platform,
        snapshotter=asked.spec.snapshotter,
        plain_http=asked.plain_http,
    ):
        shown.step(step)


async def abandon(client: Client, container: str) -> None:
    """Remove a container that never ran, as far as that goes."""
    from asyncio import timeout

    from orlop.errors import OrlopError

    if not container:
        return
    try:
        async with timeout(CLEAN_UP_SECONDS):
            await client.containers.remove(container, force=True)
    except (OrlopError, TimeoutError):
        pass  # the error that led here is the one to tell
