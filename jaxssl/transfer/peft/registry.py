"""The methods of parameter-efficient transfer that recipes can name. A new one is one file, and a
line here."""

from jaxssl.core.registry import register
from jaxssl.transfer.peft.base import Method
from jaxssl.transfer.peft.bottleneck import Bottleneck
from jaxssl.transfer.peft.compacter import Compacter
from jaxssl.transfer.peft.fusion import Fusion, Sum
from jaxssl.transfer.peft.ia3 import Ia3
from jaxssl.transfer.peft.lora import Lora
from jaxssl.transfer.peft.own import BitFit, Norms
from jaxssl.transfer.peft.prefix import Prefix
from jaxssl.transfer.peft.prompt import Prompt
from jaxssl.transfer.peft.tokens import Tokens

register(Method, Lora, Bottleneck, Compacter, Fusion, Sum, Prefix, Prompt, Ia3, Tokens)
register(Method, BitFit, Norms)
