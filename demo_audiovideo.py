"""The documented demo of both branches: python demo_audiovideo.py --cfg-path YAML --model_type llama_v2 --gpu-id 0."""

import sys

from video_llama.cli.demo import run_reference_demo

if __name__ == "__main__":
    sys.exit(run_reference_demo(__doc__, with_sound=True))
