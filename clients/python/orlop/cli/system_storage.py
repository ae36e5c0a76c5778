"""What is stored, why, and whether it is sound: df, prune, why, fsck."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from orlop.cli.base import FAILED, output_option, say, show, verb, with_client
from orlop.cli.format import ago, moment, plain, printable, shortened, size, table, to_json

if TYPE_CHECKING:
    from orlop.client import Client
    from orlop.values import CheckSummary, Explanation, Finding, Pruned


@verb("df")
@click.option("-v", "--verbose", is_flag=True, help="Each blob and snapshot, and what keeps it.")
@output_option
@with_client
async def df(client: Client, *, verbose: bool, output: str) -> None:
    """What the namespace takes on disk, and what of it a prune --all would free."""
    if verbose:
        await df_verbose(client, output)
        return
    usage = await client.system.disk_usage()
    if output == "json":
        show(usage)
        return
    reclaimable = max(usage.reclaimable, usage.reclaimable_all)
    rows = [("content", str(usage.content.count), size(usage.content.bytes), size(reclaimable))]
    rows += [
        (
            f"snapshots {name}",
            str(used.count),
            size(used.bytes),
            size(usage.reclaimable_snapshots.get(name, 0)),
        )
        for name, used in sorted(usage.snapshots.items())
    ]
    click.echo(table(("WHAT", "COUNT", "SIZE", "RECLAIMABLE"), rows))


async def df_verbose(client: Client, output: str) -> None:
    """Each object on a line."""
    objects = [each async for each in client.system.list_usage()]
    if output == "json":
        show(objects)
        return
    rows: list[tuple[str, ...]] = []
    for each in objects:
        kept = each.kept_by or "nothing: the next collection removes it"
        if each.keepers > 1:
            kept += f" and {each.keepers - 1}{'' if each.keepers < 10 else ' or'} more"
        rows.append((each.kind.value, shortened(each.id, 90), size(each.bytes), ago(each.created_at), kept))
    click.echo(table(("KIND", "ID", "SIZE", "CREATED", "KEPT BY"), rows))


@verb("prune")
@click.option("--containers", is_flag=True, help="Remove stopped containers too.")
@click.option("--images", is_flag=True, help="Remove images that no container uses too.")
@click.option("-a", "--all", "everything", is_flag=True, help="Both.")
@click.option("--dry-run", is_flag=True, help="Remove nothing, only say what would go.")
@output_option
@with_client
async def prune(
    client: Client, *, containers: bool, images: bool, everything: bool, dry_run: bool, output: str
) -> None:
    """Remove what nothing needs."""
    pruned = await client.system.prune(
        containers=containers or everything, images=images or everything, dry_run=dry_run
    )
    show(pruned) if output == "json" else click.echo(summary(pruned, dry_run=dry_run))


def summary(pruned: Pruned, *, dry_run: bool = False) -> str:
    """What went or would go, a line each, why, and how much room it makes."""
    verb_, end = ("would remove", "would free") if dry_run else ("removed", "freed")
    lines = [
        f"{verb_} {each.kind.value} {printable(each.id)} ({size(each.bytes)}): {printable(each.reason)}"
        for each in pruned.objects
    ]
    if pruned.more:
        lines.append(f"{verb_} {pruned.more} more")
    return "\n".join([*lines, f"{end} {size(pruned.reclaimed)}"])


@verb("why")
@click.argument("object_", metavar="DIGEST|KEY|NAME")
@output_option
@with_client
async def why(client: Client, *, object_: str, output: str) -> None:
    """Say why a blob, snapshot or other object is kept, or what removed it and when.

    The beginning of a digest or name is enough when it is the only one.
    """
    found = await client.system.why(object_)
    show(found) if output == "json" else click.echo(explained(found))


def explained(found: Explanation) -> str:
    """The chains, each link on a line; or the story of how it went."""
    name = printable(f"{found.kind.value} {found.id}")
    if not found.present:
        first, *causes = found.removals
        lines = [f"{name} is gone: {printable(first.reason)}, {moment(first.at)}"]
        lines += [
            f"  {printable(f'{each.kind.value} {each.id}')}: {printable(each.reason)}, {moment(each.at)}"
            for each in causes
        ]
        return "\n".join(lines)
    if not found.chains:
        return f"nothing keeps {name}: the next collection removes it"
    lines = [f"{name} is kept by"]
    for chain in found.chains:
        for depth, link in enumerate(chain):
            line = f"{'  ' * (depth + 1)}{link.kind.value} {link.id}"
            if link.reason:
                until = f", until {moment(link.expires_at)}" if link.expires_at else ""
                line += f" ({link.reason}{until})"
            if link.reference:
                line += f" -> {link.reference}"
            lines.append(printable(line))
    if found.more_chains:
        lines.append("  and more")
    return "\n".join(lines)


@verb("fsck")
@click.option("--repair", is_flag=True, help="Mend what can be mended without losing anything.")
@click.option("--quick", is_flag=True, help="Do not hash blobs, only compare their sizes.")
@output_option
@with_client
async def fsck(client: Client, *, repair: bool, quick: bool, output: str) -> int:
    """Compare what the daemon knows with what is on its disk, in all namespaces, and hash every blob.

    The exit code is 1 when something is wrong and was not mended.
    """
    from orlop.values import CheckProgress, CheckSummary, Finding

    terminal = sys.stderr.isatty()
    end: CheckSummary | None = None
    async for item in client.system.check(repair=repair, quick=quick):
        if isinstance(item, CheckProgress):
            if terminal:
                done = f"{size(item.bytes)} of {size(item.bytes_total)}" if item.bytes_total else ""
                click.echo(f"\r\x1b[K{item.stage} {done}", nl=False, err=True)
            continue
        if terminal:
            click.echo("\r\x1b[K", nl=False, err=True)
        if isinstance(item, CheckSummary):
            end = item
        if output == "json":
            kind = "finding" if isinstance(item, Finding) else "summary"
            click.echo(to_json({kind: plain(item)}, indent=None))
        else:
            click.echo(found_line(item) if isinstance(item, Finding) else summary_line(item))
    if end is None:
        say("the check did not come to its end")
        return FAILED
    return 0 if end.findings == end.repaired else FAILED


def found_line(finding: Finding) -> str:
    """A finding on a line."""
    where = f"namespace {finding.namespace}: " if finding.namespace else ""
    then = (
        f"; mended: {finding.repaired}" if finding.repaired else f"; {finding.hint}" if finding.hint else ""
    )
    return printable(f"{finding.code} {where}{finding.object}: {finding.message}{then}")


def summary_line(end: CheckSummary) -> str:
    """The last line."""
    looked = f"looked at {end.blobs} blobs ({size(end.bytes)} hashed) and {end.snapshots} snapshots"
    if not end.findings:
        return f"{looked}: all is well"
    return f"{looked}: found {end.findings} faults, mended {end.repaired}"
