"""Test kits that tell a plugin's author whether the plugin is right.

A kit is a class of tests over a ``factory`` fixture; derive from it and say how your part is made::

    from orlopd.testing.snapshotter import SnapshotterKit

    class TestMine(SnapshotterKit):
        @pytest.fixture
        def factory(self):
            return MySnapshotter          # called with a folder; may be a coroutine function

Needs the extra ``orlopd[testing]``. The kits mount, so they run as root.
"""
