"""Write the prompt files of a model folder whose decoder has its own chat template.

The chat template is the decoder's turn format with the media sentences of this project: transformers' processor makes
the prompts of ``Chat``. The tokenizer writes its own files (``FastTokenizer.save``).
"""

from __future__ import annotations

from pathlib import Path

from video_llama.checkpoints.tokenizer_files import ANSWER_TOKENS, write_generation_config
from video_llama.conversation import FastTokenizer, Template, turns_chat_template


def write_chat_template_files(
    folder: Path, tokenizer: FastTokenizer, template: Template, *, context_length: int
) -> None:
    """Write chat_template.jinja and generation_config.json.

    ``context_length`` is the largest number of tokens of prompt and answer.
    """
    text = turns_chat_template(template, add_bos=tokenizer.add_bos)
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    end = tokenizer.encode(template.stop_string)
    is_token = len(end) == 1
    write_generation_config(
        folder,
        tokenizer,
        () if is_token else (template.stop_string,),
        max_new_tokens=min(ANSWER_TOKENS, context_length // 2),
        more_ends=[token for token in end if is_token and token != tokenizer.eos_id],
    )
