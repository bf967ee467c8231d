"""How a run makes a vector of a text: as it was trained to, or as the model that it imported."""

from jaxssl.checkpoint.hf.sentence import SentenceConfig
from jaxssl.objectives.auto_encode import AutoEncode
from jaxssl.objectives.contrast.objective import Contrasting
from jaxssl.run.config import RunConfig
from jaxssl.tasks.similarity import Similarity


def sentence_of(config: RunConfig) -> SentenceConfig | None:
    """What the first objective of the run that trains vectors says, or the directory that it was
    imported from; None where nothing does."""
    if config.imported is not None:
        return config.imported.sentence
    for stream in config.all_streams.values():
        terms = [stream.objective, *stream.objective.tasks]
        for objective in terms:
            if isinstance(objective, Contrasting):
                return _trained(objective, stream.data.longest[0])
            if isinstance(objective, AutoEncode):
                return SentenceConfig(
                    pooling=(objective.pooling,), max_length=stream.data.longest[0]
                )
    return None


def _trained(objective: Contrasting, max_length: int) -> SentenceConfig:
    prompts = {}
    if isinstance(objective, Similarity):
        prompts = {"query": objective.text_prompt, "passage": objective.pair_prompt}
    alike = len({*prompts.values()}) == 1
    named = {name: text for name, text in prompts.items() if text}
    return SentenceConfig(
        pooling=(objective.pooling,),
        normalize=objective.loss.compares_directions,
        max_length=max_length,
        prompts=named,
        default_prompt="query" if named and alike else None,
        similarity="cosine" if objective.loss.compares_directions else None,
    )
