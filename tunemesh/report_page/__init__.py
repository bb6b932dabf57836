"""A report as a page for people: one HTML file, which needs nothing beside it and no network.

``writing`` puts it together, from ``facts`` (what is said, in words and numbers), ``curves`` (what is drawn)
and ``plots`` (how); ``page.html.j2`` is the page itself. Names, targets and errors come from strangers: the
template escapes all that is not made here, and the page allows no script.
"""
