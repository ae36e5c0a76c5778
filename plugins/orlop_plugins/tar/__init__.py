"""The differ for tar layers: unpacks and writes them in confined worker processes.

``differ`` speaks for the daemon and asks ``pool`` for work, which sends jobs to a small server process
(``zygote``). It forks a ``worker`` for each job; ``confine`` locks that into its directory. ``streams`` and
``headers`` read an archive, ``apply``, ``tree`` and ``whiteouts`` write its files; ``changes`` and ``writer``
do the reverse.
"""
