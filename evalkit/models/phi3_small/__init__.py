"""Phi-3 Small for transformers 5: importing this package registers it with the Auto classes."""

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from evalkit.models.phi3_small.configuration import Phi3SmallConfig
from evalkit.models.phi3_small.modeling import Phi3SmallForCausalLM, Phi3SmallModel
from evalkit.models.phi3_small.tokenizer import Phi3SmallTokenizer

AutoConfig.register(Phi3SmallConfig.model_type, Phi3SmallConfig, exist_ok=True)
AutoModelForCausalLM.register(Phi3SmallConfig, Phi3SmallForCausalLM, exist_ok=True)
AutoTokenizer.register(Phi3SmallConfig, tokenizer_class=Phi3SmallTokenizer, exist_ok=True)

__all__ = ["Phi3SmallConfig", "Phi3SmallForCausalLM", "Phi3SmallModel", "Phi3SmallTokenizer"]
