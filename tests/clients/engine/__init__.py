"""An engine that only pretends: it serves orlop.engine.v1 for the clients' tests and keeps what it was asked.

Run as `python -m tests.clients.engine SOCKET RECORDS`. Each namespace is a world of its own, so that tests
can share one engine. What a test wants to know of the requests is in RECORDS/NAMESPACE, a JSON object per
line. A container's program is one of ``base.PROGRAMS``.
"""
