"""Media decoded in processes of their own: a hostile file takes neither the HTTP server nor the web page down.

``limits.py`` says how much a medium may take, ``pool.py`` keeps the processes (asyncio), ``reader.py`` is the pool for
threads, ``process.py`` runs in the process, ``wire.py`` is what travels between them.
"""
