"""Train a model: torchrun --nproc_per_node=N train.py --cfg-path CONFIG [--options KEY=VALUE ...]."""

from video_llama.cli.scripts import run_train_script

if __name__ == "__main__":
    run_train_script(__doc__)
