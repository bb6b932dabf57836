"""Several cells on one mesh: which of them gets a job, and what becomes of the jobs of one that dies.

A cell is a set of worker queues with a coordinator of its own, and its standby. All cells of a mesh share a
virtual host, an artifact store and the records. A *desk* stands between clients and cells: see
:mod:`coordinator.cells.desk`. A mesh without cells has no desk, and its coordinator hears clients itself.
"""
