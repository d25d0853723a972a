"""The models of the goldens: what differs between them is what changes a conversion.

``class`` is the class in transformers, ``type`` its model_type; ``config`` is what config.json says besides (a value
of ... removes a key), spelled as published folders spell it. ``dtype`` is that of the weights, ``norm`` the middle of
the weights of norms, ``tensors`` changes {name: (dtype, shape)} from what transformers would save. ``hparams`` are
values that the converter needs and does not find with transformers 5, or finds wrong, and ``without`` names values of
transformers 5 that it must not find.
"""

from checkpoints.models import (
    encoders,
    experts,
    gemma,
    gemma_new,
    glm,
    gpt,
    hybrids,
    linear,
    llama,
    mixtures,
    others,
    qwen,
)

__all__ = ["MODELS"]

MODELS = {
    name: model
    for family in (llama, qwen, linear, gemma, gemma_new, glm, gpt, hybrids, mixtures, experts, others, encoders)
    for name, model in family.MODELS.items()
}
