"""Tasks for lmms-eval: ``--include_path`` with this folder. See docs/evaluation.md."""
