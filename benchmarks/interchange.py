"""A random Llama of a billion parameters, in and out: seconds and memory against `transformers`."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LAYERS, ROUNDS = 16, 3
PEAK = """
import re
def peak():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+)", file.read())[1]) * 1024
"""
OURS = (
    PEAK
    + """
import json, sys, time
from pathlib import Path
import jax, numpy as np
from jaxssl.checkpoint.hf.directory import open_model
from jaxssl.checkpoint.hf.writing import write_directory
from jaxssl.core.names import flatten
from jaxssl.models.layers import unbox
source, out, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
jax.block_until_ready(jax.numpy.ones(3) + 1)
before, start = peak(), time.perf_counter()
found = open_model(source)
params = {
    name: found.read(name, jax.ShapeDtypeStruct(leaf.shape, np.dtype(dtype), sharding=here))
    for name, leaf in flatten(unbox(found.model.abstract())).items()
}
jax.block_until_ready(params)
read, used = time.perf_counter() - start, peak() - before
size = sum(leaf.nbytes for leaf in params.values())
start = time.perf_counter()
out.mkdir()
heads = {head: head for head in found.heads}
parameters = {name: [leaf] for name, leaf in params.items()}
write_directory(out, found.config, heads, parameters, dtype=dtype, more={})
print(json.dumps(dict(read=read, write=time.perf_counter() - start, used=used, size=size)))
"""
)
COMMANDS = (
    PEAK
    + """
import json, sys, time
from pathlib import Path
import jax
from jaxssl.commands import export, import_hf
import_hf.LEAST_SHARE = 0.0  # a tokenizer of 400 tokens does for this
source, out, dtype = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
jax.block_until_ready(jax.numpy.ones(3) + 1)
before, start = peak(), time.perf_counter()
import_hf.import_model(source, out / "run", dtype=dtype, say=lambda text: None)
read, used = time.perf_counter() - start, peak() - before
start = time.perf_counter()
export.export(out / "run", out / "exported")
write = time.perf_counter() - start
size = sum(file.stat().st_size for file in (out / "exported").glob("*.safetensors"))
print(json.dumps(dict(read=read, write=write, used=used, size=size)))
"""
)
"""With all that a run directory is: the ledger, checksums, a checkpoint, which is read again."""
THEIRS = (
    PEAK
    + """
import json, sys, time, torch, transformers
source, out, dtype = sys.argv[1], sys.argv[2], getattr(torch, sys.argv[3])
before, start = peak(), time.perf_counter()
model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
total = sum(float(p.detach().flatten()[::1024].float().sum()) for p in model.parameters())
read, used = time.perf_counter() - start, peak() - before
size = sum(p.nbytes for p in model.parameters())
start = time.perf_counter()
model.save_pretrained(out)
print(json.dumps(dict(read=read, write=time.perf_counter() - start, used=used, size=size)))
"""
)


def make_llama(path: Path) -> None:
    """Random weights in the shape of Llama 3.2 1B, in bfloat16."""
    import torch
    import transformers

    from jaxssl.data.corpus.sources import Docstrings
    from jaxssl.data.tokenizer.training import TokenizerTrainConfig, train_on_texts

    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        num_hidden_layers=LAYERS,
        num_attention_heads=32,
        num_key_value_heads=8,
        intermediate_size=8192,
        max_position_embeddings=131072,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    model.tie_weights()
    model.save_pretrained(path)
    texts = [word * 9 for word in dir(transformers)]
    small = TokenizerTrainConfig(source=Docstrings(), kind="byte_bpe", vocab_size=400, out="")
    train_on_texts(small, lambda: texts).save(path)


def run() -> None:
    """Prints seconds and peak memory of reading and writing, ours and theirs by turns."""
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "llama"
        make_llama(source)
        for dtype in ("bfloat16", "float32"):
            compare(source, Path(scratch), dtype)


def compare(source: Path, scratch: Path, dtype: str) -> None:
    """One table, for weights kept or cast."""
    programs = {"ours": OURS, "transformers": THEIRS, "import, export": COMMANDS}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    for _ in range(ROUNDS):
        for name, program in programs.items():
            found[name].append(measure(program, source, scratch / "out", dtype))
    print(f"Llama, {found['ours'][0]['size'] / 1e9:.2f} GB in {dtype}")
    print(f"{'':<14}{'read s':>9}{'write s':>9}{'peak memory / parameters':>27}")
    for name, samples in found.items():
        middle = {key: statistics.median(s[key] for s in samples) for key in samples[0]}
        share = middle["used"] / middle["size"]
        print(f"{name:<14}{middle['read']:>9.2f}{middle['write']:>9.2f}{share:>27.2f}")
    for key in ("read", "write"):
        each = [b[key] / a[key] for a, b in zip(found["ours"], found["transformers"])]
        middle = statistics.median(each)
        print(f"{key}: theirs / ours {middle:.2f} ({min(each):.2f}..{max(each):.2f}), target 1.0")
    print("peak memory target: 1.2 times the parameters")


def measure(program: str, source: Path, out: Path, dtype: str) -> dict[str, float]:
    """What one process of its own says; what it wrote is deleted."""
    import shutil

    command = [sys.executable, "-c", program, str(source), str(out), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(out)
    return json.loads(done.stdout.splitlines()[-1])
