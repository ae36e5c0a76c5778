"""The host: finds plugins, opens the parts they offer in order, and closes them in reverse."""

from .discover import Offer, Plugin, discover
from .hooks import PluginHooks
from .host import Host
from .register import HostError

__all__ = ["Host", "HostError", "Offer", "Plugin", "PluginHooks", "discover"]
