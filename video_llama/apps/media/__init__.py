"""Decode media in separate processes, so that a damaged or hostile file cannot crash the server or web page.

``limits.py``: limits per medium. ``pool.py``: the pool of processes, for asyncio. ``reader.py``: the pool for threads.
``process.py``: the program of a process. ``wire.py``: the message format.
"""
