"""The families that recipes can name. A new one is one file, and a line here."""

from jaxssl.core.registry import register
from jaxssl.models.bart import BartConfig, MBartConfig
from jaxssl.models.bert import BertConfig, DistilBertConfig, RobertaConfig
from jaxssl.models.electra import ElectraConfig
from jaxssl.models.gpt2 import Gpt2Config
from jaxssl.models.llama import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from jaxssl.models.modernbert import ModernBertConfig
from jaxssl.models.t5 import MT5Config, T5Config
from jaxssl.models.transformer import ModelConfig

register(ModelConfig, BertConfig, RobertaConfig, DistilBertConfig, ElectraConfig, ModernBertConfig)
register(ModelConfig, Gpt2Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)
register(ModelConfig, T5Config, MT5Config, BartConfig, MBartConfig)
