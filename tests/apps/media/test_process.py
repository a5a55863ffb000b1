"""The media process: what it loads."""

import subprocess
import sys


def test_it_loads_neither_torch_nor_transformers():
    code = (
        "import sys, video_llama.apps.media.process\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
