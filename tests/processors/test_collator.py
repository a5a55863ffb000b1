"""The data collator: labels are those of our own training."""

import pytest
import torch
from PIL import Image

from tests.processors.prompts import STYLES, assistant, counts, medium, read, user
from video_llama.chat.messages import message_for
from video_llama.conversation import TrainingTurn, pad_batch, training_example
from video_llama.errors import DataError
from video_llama.processors.collator import VideoLlamaCollator


@pytest.mark.parametrize("style", STYLES)
def test_a_batch_is_that_of_our_training(processors, ours, clips, style):
    kinds = [("video",), ("image", "silent"), ()]
    rows, examples = [], []
    for index, row in enumerate(kinds):
        question, answer = "What is it?" * (index + 1), "A red\nsquare."
        blocks = [medium(kind, clips[kind]) for kind in row]
        rows.append({"messages": [user(*blocks, question), assistant(answer), user("Sure?"), assistant("Yes.")]})
        media = tuple(message_for(read(ours, clips[kind])) for kind in row)
        turns = [TrainingTurn(question, answer, media), TrainingTurn("Sure?", "Yes.")]
        examples.append(training_example(ours.tokenizer, turns, template=style, **counts(ours)))
    batch = VideoLlamaCollator(processors[style])(rows)
    expected = pad_batch(examples, ours.tokenizer.pad_id)
    assert batch["input_ids"].tolist() == expected.input_ids
    assert batch["labels"].tolist() == expected.labels
    assert batch["attention_mask"].tolist() == expected.attention_mask
    assert [len(each) for each in batch["pixel_values_videos"]] == [4, 1, 4]
    assert len(batch["input_features"]) == 1
    loss = ours.model(**batch).loss if style == "default" else None
    assert loss is None or loss.isfinite()


def test_media_in_columns(processor, clips):
    """As TRL's data sets have them."""
    picture = Image.open(clips["image"]).convert("RGB")
    named = {"messages": [user(medium("image", clips["image"]), "What?"), assistant("Yes.")]}
    row = {"messages": [user({"type": "image"}, "What?"), assistant("Yes.")], "images": [picture]}
    apart = {"prompt": row["messages"][:1], "completion": row["messages"][1:], "image": picture}
    expected = VideoLlamaCollator(processor)([named])
    for each in (row, apart):
        batch = VideoLlamaCollator(processor)([each])
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


def test_texts(processor, clips):
    rows = [{"text": "<Image><video></Image> a", "images": [clips["image"]]}, {"text": "no medium"}]
    batch = VideoLlamaCollator(processor)(rows)
    assert batch["pixel_values"].shape == (1, 3, 28, 28)
    is_place = batch["input_ids"] == processor.video_token_id
    assert torch.equal(batch["labels"] == -100, is_place | (batch["attention_mask"] == 0))


def test_cut_rows(processor, clips):
    rows = [{"messages": [user("What is it?"), assistant("A red square that moves.")]}]
    whole = VideoLlamaCollator(processor)(rows)
    length = whole["input_ids"].shape[1] - 3
    cut = VideoLlamaCollator(processor, max_length=length)(rows)
    assert torch.equal(cut["labels"], whole["labels"][:, :length])
    with pytest.raises(DataError, match="Row 0 of the batch has no answer within 4 tokens"):
        VideoLlamaCollator(processor, max_length=4)(rows)
    rows = [{"messages": [user(medium("image", clips["image"]), "What?"), assistant("Yes.")]}]
    with pytest.raises(DataError, match="a medium beyond the first 4 tokens"):
        VideoLlamaCollator(processor, max_length=4)(rows)
    with pytest.raises(DataError, match="A row has the columns question"):
        VideoLlamaCollator(processor)([{"question": "What?"}])
