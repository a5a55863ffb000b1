"""Preprocessing of media and captions: files in, arrays out.

Import from the modules: ``medium`` (everything in a file), ``video_processor``, ``audio_processor``, ``text_processor``
and ``processing`` (the Hugging Face processor). Only ``audio_processor``, ``augmentation`` and
``processing`` import torch.
"""
