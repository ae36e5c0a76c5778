"""Names for containers that nobody named: an adjective and a part of a ship."""

from __future__ import annotations

import secrets
from collections.abc import Callable

_HOW = """
able airy ample apt bold brave brisk bright calm candid clear clever cosy crisp deft eager early easy even
fair fast fine firm fit fleet fond frank free fresh glad gold good grand great green hale handy happy hardy
honest jolly keen kind late light lively loyal lucky mellow merry mild neat nimble noble odd old pale plain
prim proud quick quiet rare ready red rich ripe robust round royal safe sharp shy silver sleek slim smart
snug sober soft solid sound spry stable steady still stout sturdy sunny sure sweet swift tall tame tidy
tough trim true trusty vivid warm wide wild wise witty young zesty
"""
_WHAT = """
anchor ballast beacon beam berth bilge binnacle block boom bow bowline brig bulkhead bulwark buoy cabin
cable capstan clew cleat cockpit coil compass crow cutter davit deck dinghy dock draft fender fid flag flare
foil foremast forepeak frigate futtock gaff galley gangway grapnel gunwale halyard harbour hatch hawser helm
hold hull jetty jib keel ketch knot lanyard lantern launch lee lighter locker log lugger mainsail mast
mizzen mooring oar orlop outrigger packet pennant pier pilot pinnace pintle plank poop port prow quay raft
ratline reef rigging rudder sail schooner scupper sextant sheet shoal shroud skiff sloop spar spinnaker
sprit stanchion starboard stay stern strake tackle thwart tide tiller topsail transom trawler trysail tug
wake wherry winch windlass yacht yard yawl
"""


def made_up_name(taken: Callable[[str], bool]) -> str:
    """A name that is not taken, for example ``brisk-halyard``; with a number where most are."""
    how, what = _HOW.split(), _WHAT.split()
    for attempt in range(64):
        name = f"{secrets.choice(how)}-{secrets.choice(what)}"
        if attempt > 8:
            name += f"-{secrets.randbelow(10 ** (attempt // 8))}"
        if not taken(name):
            return name
    return f"{secrets.choice(how)}-{secrets.token_hex(8)}"
