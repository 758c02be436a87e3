"""What every source is held to, through a real daemon: one set of rows, an adapter for each source.

To hold a new source NAME to it:

1. Write ``adapters/NAME.py`` with a ``make(request, folder) -> Adapter``: start its server (ask for
   a session's server by ``request.getfixturevalue``), put a ``tests.origins.gate.Gate`` before it,
   and say how a model is put, changed and removed, what its URI is, which passes there are. What
   the source can't have goes into ``lacks`` with the reason; rows that need it are skipped and
   say so. ``adapter.py`` lists the words.
2. Write ``test_NAME.py``: a class that is ``tests.contract.rows.EveryRow``.

The gate counts what passes, and misbehaves as rows tell it, so the server needs no faults of its
own.
"""
