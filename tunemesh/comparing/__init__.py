"""A tuned model beside what else would run it on this machine: on the same cores, taking turns.

``peers`` says who these are, ``racing`` lets them take turns, each in a process of its own (``child``), which
loads the model by ``runners``. ``comparison`` makes the entries of a report of it. Nothing here needs a mesh.
"""
