"""Answer questions about many media: ``video-llama batch``.

``inputs.py``: media and questions from folders, patterns and tables; ``shards.py``: from tar shards; ``stores.py``:
files in object stores. ``limits.py``: limits per medium. ``reading.py``: media read in separate processes, ahead of the
model. ``bulk_answering.py``: answers of a batch. ``engines.py``: this machine or Ray (``ray_engine.py``). ``run.py``: a
whole run. ``parquet.py``: the results as Parquet.
"""
