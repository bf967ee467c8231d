"""The tasks that recipes can name beside objectives. A new one is one file, and a line here."""

from jaxssl.core.registry import register
from jaxssl.objectives.base import Objective
from jaxssl.tasks.answer.task import Answer
from jaxssl.tasks.chat import Chat
from jaxssl.tasks.classify import Classify
from jaxssl.tasks.regress import Regress
from jaxssl.tasks.relate.task import Relate
from jaxssl.tasks.seq2seq import Seq2seq
from jaxssl.tasks.similarity import Similarity
from jaxssl.tasks.tag.task import Tag

register(Objective, Classify, Regress, Tag, Relate, Answer, Similarity, Seq2seq, Chat)
