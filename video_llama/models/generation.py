"""``generate`` of transformers for prompts with media.

Media are encoded once, before the loop. The embeddings of the prompt, with the media tokens at their places, travel as
one keyword argument with a row for each position. ``prepare_inputs_for_generation`` cuts from it what a forward pass
needs, so that chunks, beams, candidates of assisted decoding and a cache that holds part of the prompt all work, and
the loop itself sees token ids as in every other model.

Private names of transformers that are overridden here, each because no public one gives access to the place:
``_validate_model_kwargs`` (the additional arguments), ``_assisted_decoding`` and ``_get_candidate_generator`` (what an
assistant receives). All exist in transformers 5.16 to 5.24.
"""

# B rows, L prompt length, D decoder width

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, GenerationMixin
from transformers.generation.stopping_criteria import StoppingCriteriaList, StopStringCriteria

from video_llama.models.cache_argument import CACHE, one_cache
from video_llama.models.media_tokens import MEDIA_ARGUMENTS, num_tokens_of, place_tokens
from video_llama.models.repetition_penalty import with_answer_penalty

PROMPT_EMBEDS = "prompt_embeds"
"""Embeddings of the prompt with media, [B, L, D]."""
PROMPT_OFFSET = "prompt_offset"
"""Number of positions in the cache before the first given id; not 0 if only new ids are given with a cache."""
ASSISTANT_EMBEDS = "assistant_prompt_embeds"
"""``PROMPT_EMBEDS`` of an assistant model of our class."""
STOPS = "stop_string_criteria"
"""Criteria that end an answer between the tokens of one candidate."""
PRIVATE_ARGUMENTS = (PROMPT_EMBEDS, PROMPT_OFFSET, ASSISTANT_EMBEDS, STOPS)


class MediaGenerationMixin(GenerationMixin):
    """``generate`` with media; mixed into ``VideoLlamaForConditionalGeneration``."""

    model: Any
    """The ``VideoLlamaModel`` of the class with this mixin."""
    config: Any

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *args: Any,
        input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Generate ids as in transformers, with the media arguments of ``forward``.

        With ``input_ids`` [B, L] the result contains prompt and answer ids [B, L + new]; pad batches on the left.
        ``inputs`` is an alias of ``input_ids``. With a ``cache`` (or ``past_key_values``) that holds the beginning of
        ``input_ids``, only media after it are needed. ``repetition_penalty`` applies to BOS and the answer's tokens
        only (``repetition_penalty.py``). Stop strings of the generation configuration need no ``tokenizer``: that of
        the model's folder is loaded.

        Raises ValueError if placeholders and media do not agree, and for stop strings without a tokenizer.
        """
        input_ids = inputs if input_ids is None else input_ids
        cache = one_cache(kwargs.pop("past_key_values", None), kwargs.pop("cache", None))
        if cache is not None:
            kwargs[CACHE] = cache
        media = {name: kwargs.pop(name) for name in MEDIA_ARGUMENTS if name in kwargs}
        media = {name: value for name, value in media.items() if value is not None}
        if kwargs.get("inputs_embeds") is not None:
            kwargs["inputs_embeds"] = self.model.place_in_embeds(kwargs["inputs_embeds"], **media)
        elif input_ids is not None and PROMPT_EMBEDS not in kwargs:
            kwargs |= self._prompt_arguments(input_ids, media, kwargs)
        elif media:
            raise ValueError("Give input_ids with the media, as the processor returns them.")
        if input_ids is not None:
            kwargs["input_ids"] = input_ids
        prompt_length = 0 if input_ids is None else input_ids.shape[1]
        settings = generation_config
        if getattr(settings, "repetition_penalty", None) is None:
            settings = self.generation_config
        kwargs = with_answer_penalty(kwargs, settings, prompt_length, self.config.text_config.bos_token_id)
        self._add_tokenizer(kwargs, generation_config)
        return super().generate(None, generation_config, *args, **kwargs)  # type: ignore[misc]

    def _prompt_arguments(self, ids_BL: Tensor, media: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the private arguments with the embeddings of a prompt; none for a prompt without media."""
        cache, mask = kwargs.get(CACHE), kwargs.get("attention_mask")
        num_cached = 0 if cache is None else int(cache.get_seq_length())
        has_only_new_ids = mask is not None and mask.shape[1] > ids_BL.shape[1]
        begin = 0 if has_only_new_ids else num_cached
        embeds_BLD = self._prompt_embeds(ids_BL, media, begin)
        if embeds_BLD is None:
            return {}
        arguments = {PROMPT_EMBEDS: embeds_BLD, PROMPT_OFFSET: num_cached if has_only_new_ids else 0}
        assistant = kwargs.get("assistant_model")
        if isinstance(assistant, MediaGenerationMixin):
            arguments[ASSISTANT_EMBEDS] = assistant._prompt_embeds(ids_BL, media, 0)
        return arguments

    def _prompt_embeds(self, ids_BL: Tensor, media: dict[str, Any], begin: int) -> Tensor | None:
        """Return the embeddings [B, L, D] of a prompt of which the first ``begin`` positions are in the cache.

        Returns None if there is nothing to place. Media may be those of the whole prompt or of the part after
        ``begin``.
        """
        ids_BL = ids_BL.to(self.model.device)
        places = self.model.places_of(ids_BL)
        num_new = {name: int(mask[:, begin:].sum()) for name, mask in places.items()}
        if not any(num_new.values()) and (begin > 0 or not media):
            return None
        embeds_BLD: Tensor = self.model.embed_words(ids_BL)
        for name, tokens in self.model.media_tokens(**media).items():
            places_BL = places[name]
            if begin > 0 and num_tokens_of(tokens) == num_new[name]:
                places_BL = places_BL.clone()
                places_BL[:, :begin] = False
            embeds_BLD = place_tokens(embeds_BLD, places_BL, tokens, name)
        return embeds_BLD

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        cache: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers; positions of a prompt with media are given as ``inputs_embeds``."""
        cache = one_cache(past_key_values, cache)
        prompt_BLD, offset = kwargs.pop(PROMPT_EMBEDS, None), kwargs.pop(PROMPT_OFFSET, 0)
        for name in PRIVATE_ARGUMENTS:
            kwargs.pop(name, None)
        prepared: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,  # type: ignore[arg-type]
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,  # type: ignore[arg-type]
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{CACHE: cache},
            **kwargs,
        )
        if prompt_BLD is None:
            return prepared
        if next_sequence_length is not None:
            begin = input_ids.shape[1] - int(next_sequence_length)
        else:
            begin = 0 if cache is None else int(cache.get_seq_length()) - offset
        given_BSD = prompt_BLD[:, begin : begin + prepared["input_ids"].shape[1]]
        if given_BSD.shape[1] > 0:
            rest = self.model.embed_words(prepared.pop("input_ids")[:, given_BSD.shape[1] :])
            prepared["input_ids"], prepared["inputs_embeds"] = None, torch.cat([given_BSD, rest], dim=1)
        return prepared

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        public = {name: value for name, value in model_kwargs.items() if name not in PRIVATE_ARGUMENTS}
        super()._validate_model_kwargs(public)  # type: ignore[misc]

    # --- assisted decoding -----------------------------------------------------------------------------------------

    def _assisted_decoding(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Any:
        criteria = kwargs.get("stopping_criteria") or ()
        stops = [each for each in criteria if isinstance(each, StopStringCriteria)]
        kwargs[STOPS] = StoppingCriteriaList(stops)
        return super()._assisted_decoding(input_ids, *args, **kwargs)  # type: ignore[misc, arg-type]

    def _get_candidate_generator(  # type: ignore[override]
        self, *, model_kwargs: dict[str, Any], **kwargs: Any
    ) -> Any:
        """As in transformers, for an assistant of any class: it gets its own embeddings, or none."""
        arguments = {name: value for name, value in model_kwargs.items() if name not in PRIVATE_ARGUMENTS}
        assistant = kwargs.get("assistant_model")
        if assistant is None:
            own = PROMPT_EMBEDS
        else:
            own = ASSISTANT_EMBEDS if isinstance(assistant, MediaGenerationMixin) else ""
        if model_kwargs.get(own) is not None:
            arguments |= {PROMPT_EMBEDS: model_kwargs[own], PROMPT_OFFSET: 0}
        config = kwargs["generation_config"]
        before, config.stop_strings = config.stop_strings, None  # the assistant has no tokenizer to search for them
        try:
            inner = super()._get_candidate_generator(model_kwargs=arguments, **kwargs)  # type: ignore[misc]
        finally:
            config.stop_strings = before
        return Candidates(inner, self, model_kwargs.get(STOPS) or StoppingCriteriaList())

    # --- stop strings ----------------------------------------------------------------------------------------------

    def _add_tokenizer(self, kwargs: dict[str, Any], given: GenerationConfig | None) -> None:
        """Add the folder's tokenizer to ``generate``'s arguments if stop strings require it."""
        stop_strings = getattr(given, "stop_strings", None) or getattr(self.generation_config, "stop_strings", None)
        stop_strings = kwargs.get("stop_strings", stop_strings)
        if stop_strings and kwargs.get("tokenizer") is None:
            kwargs["tokenizer"] = self._folder_tokenizer(stop_strings)

    def _folder_tokenizer(self, stop_strings: Any) -> Any:
        known = getattr(self, "_stop_tokenizer", None)
        if known is None:
            path = getattr(self.config, "_name_or_path", "") or ""
            try:
                known = AutoTokenizer.from_pretrained(path, local_files_only=True)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"Stop strings ({stop_strings!r}) require a tokenizer, and none is in {path or 'the model'!r}. "
                    "Give tokenizer=..., or stop_strings=None."
                ) from error
            self._stop_tokenizer = known
        return known


class Candidates:
    """A candidate generator of transformers that does not see the placeholder ids of media.

    They have no row in some vocabularies, and a prompt's placeholders are never an answer. Candidates end before the
    token that completes a stop string, so that the answer ends there as it does without candidates.
    """

    def __init__(self, inner: Any, model: Any, stops: StoppingCriteriaList) -> None:
        self._inner, self._model, self._stops = inner, model, stops

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def get_candidates(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Return ``input_ids`` [1, L] with candidates [1, L + n] and their logits [1, n, vocabulary] or None."""
        candidates, logits = self._inner.get_candidates(self._without_places(input_ids), *args, **kwargs)
        new = candidates[:, input_ids.shape[1] :]
        whole = torch.cat([input_ids, new.to(input_ids.device)], dim=1)
        length = next(
            (end - 1 for end in range(input_ids.shape[1] + 1, whole.shape[1] + 1) if self._is_stopped(whole[:, :end])),
            whole.shape[1],
        )
        if logits is not None:
            logits = logits[:, : length - input_ids.shape[1]]
        return whole[:, :length], logits

    def update_candidate_strategy(self, input_ids: Tensor, scores: Tensor, num_matches: int) -> Any:
        """As in transformers."""
        return self._inner.update_candidate_strategy(self._without_places(input_ids), scores, num_matches)

    def _is_stopped(self, ids: Tensor) -> bool:
        return len(self._stops) > 0 and bool(self._stops(ids, None).all())

    def _without_places(self, input_ids: Tensor) -> Tensor:
        video, audio = self._model.model.places_of(input_ids).values()
        return input_ids.masked_fill(video | audio, 0)
