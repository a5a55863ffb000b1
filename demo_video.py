"""The documented demo of the vision branch: python demo_video.py --cfg-path YAML --model_type llama_v2 --gpu-id 0."""

import sys

from video_llama.cli.demo import run_reference_demo

if __name__ == "__main__":
    sys.exit(run_reference_demo(__doc__, with_sound=False))
