"""A page to watch a mesh: its jobs, resources and records, and the report of each job as it grows.

``feed`` listens to the mesh and keeps the ``board`` up to date; ``listing`` chooses and words what is shown,
``growing`` makes the report of a job out of what is measured so far, ``kept`` asks for what outlives jobs.
``web`` serves it, behind ``guard``. Pages are HTML that is complete without a script; the script only
replaces the parts of them that have changed, which arrive as server-sent events. Names, targets and errors
come from strangers: templates escape all that is not made here.
"""
