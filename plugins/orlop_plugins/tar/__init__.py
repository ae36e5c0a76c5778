"""The differ for tar layers: unpacks and writes them in confined worker processes.

``differ`` speaks for the daemon and asks ``pool`` for work, which sends jobs to a small server process
(``zygote``). It forks a worker for each job; ``confine`` locks that into its directory; ``apply`` reads an
archive with ``streams`` and ``headers`` and writes files; ``changes`` and ``writer`` do the reverse.
"""
