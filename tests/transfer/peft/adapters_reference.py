"""Writes adapters_reference.npz: what the library `adapters` 1.3.0 makes of a tiny random BERT, for
`test_reference.py`. Run it where that library is installed with the transformers that it wants:

    python -m venv reference
    reference/bin/pip install adapters==1.3.0 torch
    reference/bin/python tests/transfer/peft/adapters_reference.py
"""

import json
import zlib
from pathlib import Path

import adapters
import numpy as np
import torch
from adapters.composition import Fuse
from transformers import BertConfig, BertModel

OUT = Path(__file__).with_name("adapters_reference.npz")
SHAPE = dict(
    vocab_size=40,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=12,
)
HOULSBY = dict(reduction_factor=4, non_linearity="relu")
CASES = {
    "bottleneck": {"a": adapters.DoubleSeqBnConfig(**HOULSBY)},
    "parallel": {"a": adapters.ParBnConfig(reduction_factor=2, scaling=4.0)},
    "compacter": {"a": adapters.CompacterConfig(reduction_factor=2, phm_dim=4)},
    "fusion": {
        "a": adapters.DoubleSeqBnConfig(**HOULSBY),
        "b": adapters.DoubleSeqBnConfig(reduction_factor=2, non_linearity="relu"),
    },
}


def randomise(model):
    """Every parameter random, by its name, so that the model's own are the same in all cases.
    Norms' scales are near 1."""
    with torch.no_grad():
        for name, x in model.named_parameters():
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
            x.copy_(centre + 0.3 * torch.randn(x.shape, generator=generator))


def main() -> None:
    """Writes the file."""
    ids = torch.randint(0, 40, (2, 9), generator=torch.Generator().manual_seed(7))
    arrays = {"ids": ids.numpy()}
    for case, configs in CASES.items():
        config = BertConfig(**SHAPE, attn_implementation="eager")
        model = BertModel(config, add_pooling_layer=False)
        own = {*model.state_dict()}
        adapters.init(model)
        for name, each in configs.items():
            model.add_adapter(name, config=each)
        setup = next(iter(configs))
        if len(configs) > 1:
            setup = Fuse(*configs)
            model.add_adapter_fusion(setup, "dynamic")
        model.set_active_adapters(setup)
        randomise(model)
        model.eval()
        for name, x in model.state_dict().items():
            if not name.startswith("prompt_tuning"):
                arrays[f"model/{name}" if name in own else f"{case}/{name}"] = x.numpy()
        with torch.no_grad():
            arrays[f"{case}/hidden"] = model(input_ids=ids).last_hidden_state.numpy()
    np.savez_compressed(OUT, config=json.dumps({**SHAPE, "model_type": "bert"}), **arrays)


if __name__ == "__main__":
    main()
