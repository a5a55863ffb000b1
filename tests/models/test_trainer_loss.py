"""The loss under transformers' Trainer, and in the forms that distributed training gives."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tests.models.conftest import AUDIO, VIDEO
from video_llama.models.video_llama import VideoLlamaForConditionalGeneration

Model = VideoLlamaForConditionalGeneration


class Rows(Dataset[dict[str, Tensor]]):
    """Four rows with a video, a sound and an answer of one to four words."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(index)
        words = torch.randint(3, 50, (4,), generator=generator)
        ids = torch.cat([torch.tensor([1, *[VIDEO] * 5, *[AUDIO] * 2]), words])
        labels = ids.clone()
        labels[: 8 + index % 4] = -100
        return {
            "input_ids": ids,
            "labels": labels,
            "pixel_values_videos": torch.randn(2, 3, 28, 28, generator=generator),
            "input_features": torch.randn(2, 1, 16, 26, generator=generator),
        }


@pytest.mark.slow
def test_accumulated_steps_give_the_gradients_of_whole_batches(make: Any, tmp_path: Path) -> None:
    """Rows have different numbers of labels, so that a mean of means would differ; media must reach the model."""
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments, set_seed

    trained = {}
    for accumulation in (1, 4):
        model = _frozen(make)
        set_seed(3)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=5,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            learning_rate=0.002,  # larger steps amplify rounding
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Rows())
        result = trainer.train()
        trained[accumulation] = (result.training_loss, {n: p for n, p in model.named_parameters() if p.requires_grad})
    (loss_1, weights_1), (loss_4, weights_4) = trained[1], trained[4]
    assert loss_4 == pytest.approx(loss_1, rel=1e-5)
    before = dict(_frozen(make).named_parameters())
    assert any((weight - before[name]).abs().max() > 1e-3 for name, weight in weights_1.items())
    for name, weight in weights_1.items():
        torch.testing.assert_close(weights_4[name], weight, rtol=0, atol=1e-5)  # float32 sums in another order


def _frozen(make: Any) -> Model:
    settings = make().config.qformer_config.to_dict()
    model: Model = make(qformer_config={**settings, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("model.video_qformer.", "model.audio_qformer.")))
    return model


def test_the_number_of_items_and_shifted_labels_are_used(make: Any) -> None:
    model: Model = make()
    ids = torch.tensor([[1, 5, 6, 7], [1, 8, 9, 10]])
    labels = torch.where(ids == 1, -100, ids)
    mean = model(ids, labels=labels).loss
    torch.testing.assert_close(model(ids, labels=labels, num_items_in_batch=12).loss, mean * 6 / 12)
    shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
    assert torch.equal(model(ids, labels=torch.full_like(ids, 3), shift_labels=shifted.contiguous()).loss, mean)


def test_labels_at_placeholders_are_ignored(make: Any) -> None:
    model: Model = make()
    media = {"video_features": torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))}
    ids = torch.tensor([[1, *[VIDEO] * 5, 8, 9]])
    masked = ids.masked_fill(ids == VIDEO, -100)
    assert torch.equal(model(ids, labels=ids, **media).loss, model(ids, labels=masked, **media).loss)


def test_outputs_as_a_tuple(make: Any, frames: Any) -> None:
    model: Model = make()
    ids = torch.tensor([[1, *[VIDEO] * 5, 8, 9]])
    given = {"pixel_values_videos": frames(2)}
    expected = model(ids, labels=ids, **given)
    loss, logits, *_ = model(ids, labels=ids, return_dict=False, **given)
    assert torch.equal(loss, expected.loss)
    assert torch.equal(logits, expected.logits)
    hidden = model.model(ids, return_dict=False, **given)[0]
    assert torch.equal(hidden, model.model(ids, **given).last_hidden_state)


def test_the_tensor_parallel_plan_covers_decoder_and_head(make: Any) -> None:
    plan = make().tp_plan
    assert plan["lm_head"] == "colwise_gather_output"
    assert any(name.startswith("model.language_model.layers.*.self_attn.q_proj") for name in plan)
