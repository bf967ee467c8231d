"""SentencePiece's model files: their content, and further pieces that no text is made of."""

from collections.abc import Sequence
from typing import Any


def read_model(model: bytes) -> Any:
    """The content of a `.model` file."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    proto.ParseFromString(model)
    return proto


def with_control_pieces(model: bytes, pieces: Sequence[str]) -> bytes:
    """The model with control symbols behind its last id, in the order given."""
    proto = read_model(model)
    for piece in pieces:
        proto.pieces.add(piece=piece, score=0.0, type=proto.SentencePiece.CONTROL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto.SerializeToString(deterministic=True)


def differ_in_control_pieces(model: bytes, larger: bytes) -> bool:
    """Whether the one model is the other with further control symbols behind its last id."""
    further = read_model(larger).pieces[len(read_model(model).pieces) :]
    pieces = [piece.piece for piece in further]
    return with_control_pieces(model, pieces) == with_control_pieces(larger, [])
