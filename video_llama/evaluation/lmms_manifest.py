"""The entry point ``lmms_eval.models``: the model ``video_llama`` of lmms-eval 0.7."""

from lmms_eval.models.registry_v2 import ModelManifest

manifest = ModelManifest(
    model_id="video_llama",
    chat_class_path="video_llama.evaluation.lmms.VideoLlamaChat",
    simple_class_path="video_llama.evaluation.lmms.VideoLlamaSimple",
)
