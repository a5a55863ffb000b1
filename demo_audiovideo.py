"""Start the web demo of both branches: python demo_audiovideo.py --cfg-path YAML --model_type llama_v2 --gpu-id 0."""

from video_llama.cli.scripts import run_demo_script

if __name__ == "__main__":
    run_demo_script(__doc__, with_audio=True)
