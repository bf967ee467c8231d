"""SentencePiece models as `tokenizer.json`, for users of `transformers`.

Our own loader uses the `.model` file, which is exact and several times faster.
"""

import json
from typing import Any

from jaxssl.data.tokenizer.sentencepiece_model import read_model

SAMPLES = (
    "Hello there, World! It's 3.14 times (as old).",
    "  leading and  double   spaces, trailing  ",
    "na\u00efve caf\u00e9s \u2014 \u201cquoted\u201d \ufb01ne \u2460 x=y_z\n\nnew\tline",
    "\u4f60\u597d\u3002\u518d\u89c1 \u0416\u0443\u043a \U0001f600 unknownword\u2603",
)


def tokenizer_json(model: bytes) -> bytes | None:
    """The model as a `tokenizer.json`, or None where that would encode our samples differently."""
    import sentencepiece

    library = _library(read_model(model))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    for sample in SAMPLES:
        if library.encode(sample, add_special_tokens=False).ids != processor.encode(sample):
            return None
    content = json.loads(library.to_str())
    return json.dumps(content, ensure_ascii=False, indent=1).encode()


def _library(proto: Any) -> Any:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers

    trainer = proto.trainer_spec
    library = Tokenizer(_unigram(proto) if trainer.model_type == trainer.UNIGRAM else _bpe(proto))
    charsmap = proto.normalizer_spec.precompiled_charsmap
    steps = [normalizers.Precompiled(charsmap)] if charsmap else []
    if proto.normalizer_spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    library.normalizer = normalizers.Sequence(steps)
    prefix = "always" if proto.normalizer_spec.add_dummy_prefix else "never"
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
    library.decoder = decoders.Metaspace(prepend_scheme=prefix)
    special = [p.piece for p in proto.pieces if p.type in (p.CONTROL, p.UNKNOWN)]
    library.add_special_tokens([AddedToken(piece, normalized=False) for piece in special])
    return library


def _unigram(proto: Any) -> Any:
    from tokenizers import models

    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    return models.Unigram(pieces, proto.trainer_spec.unk_id, proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> Any:
    """BPE with the merges that the pieces' order (best first) implies."""
    from tokenizers import models

    ids = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    merges = []
    for i, piece in enumerate(proto.pieces):
        if piece.type == piece.NORMAL:
            cuts = [(piece.piece[:k], piece.piece[k:]) for k in range(1, len(piece.piece))]
            found = [(ids[a], ids[b], a, b) for a, b in cuts if a in ids and b in ids]
            merges += [(i, *cut) for cut in sorted(found)]
    return models.BPE(
        vocab=ids,
        merges=[(a, b) for *_, a, b in merges],
        unk_token=proto.pieces[proto.trainer_spec.unk_id].piece,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )
