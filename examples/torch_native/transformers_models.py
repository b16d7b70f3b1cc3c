"""Small models of transformers from their configurations: random weights, no download.

Without dropout, as several processes draw other random numbers than one.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from ttrace.examples.torch_native.tasks import Samples, Task, own_loss

VOCABULARY = 64
_LENGTH = 12
_CLASSES = 5
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_DECODER = {**_SIZES, "num_key_value_heads": 2, "use_cache": False}


def gpt2(**changed: Any) -> hf.PreTrainedModel:
    """GPT-2 without dropout, of its published size but for what is changed."""
    config = hf.GPT2Config(
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False, **changed
    )
    return hf.GPT2LMHeadModel(config)


def _small_gpt2() -> hf.PreTrainedModel:
    return gpt2(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4)


def _llama() -> hf.PreTrainedModel:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_DECODER))


def _mixtral() -> hf.PreTrainedModel:
    return hf.MixtralForCausalLM(
        hf.MixtralConfig(**_DECODER, num_local_experts=4, num_experts_per_tok=2)
    )


def _qwen_moe() -> hf.PreTrainedModel:
    return hf.Qwen2MoeForCausalLM(
        hf.Qwen2MoeConfig(
            **_DECODER,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=32,
        )
    )


def _bert() -> hf.PreTrainedModel:
    return hf.BertForMaskedLM(
        hf.BertConfig(
            **_SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
    )


def _vit() -> hf.PreTrainedModel:
    config = hf.ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config.num_labels = _CLASSES
    return hf.ViTForImageClassification(config)


def _t5() -> hf.PreTrainedModel:
    config = hf.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        use_cache=False,
    )
    config.decoder_start_token_id = 0
    return hf.T5ForConditionalGeneration(config)


def _tokens(num_samples: int, generator: torch.Generator) -> Samples:
    tokens = torch.randint(VOCABULARY, (num_samples, _LENGTH), generator=generator)
    return {"input_ids": tokens, "labels": tokens}


def _long_tokens(num_samples: int, generator: torch.Generator) -> Samples:
    shape = (num_samples, 128)
    tokens = torch.randint(hf.GPT2Config().vocab_size, shape, generator=generator)
    return {"input_ids": tokens, "labels": tokens}


def _two_texts(num_samples: int, generator: torch.Generator) -> Samples:
    texts = torch.randint(VOCABULARY, (2, num_samples, _LENGTH), generator=generator)
    return {"input_ids": texts[0], "labels": texts[1, :, : _LENGTH // 2].clone()}


def _images(num_samples: int, generator: torch.Generator) -> Samples:
    return {
        "pixel_values": torch.randn(num_samples, 3, 16, 16, generator=generator),
        "labels": torch.randint(_CLASSES, (num_samples,), generator=generator),
    }


def _task(
    model: Callable[[], hf.PreTrainedModel],
    *blocks: str,
    samples: Callable[[int, torch.Generator], Samples] = _tokens,
) -> Task:
    return Task(model=model, samples=samples, loss=own_loss, blocks=blocks)


TASKS = {
    "hf-gpt2-124m": _task(gpt2, "GPT2Block", samples=_long_tokens),
    "hf-gpt2": _task(_small_gpt2, "GPT2Block"),
    "hf-llama": _task(_llama, "LlamaDecoderLayer"),
    "hf-mixtral": _task(_mixtral, "MixtralDecoderLayer"),
    "hf-qwen-moe": _task(_qwen_moe, "Qwen2MoeDecoderLayer"),
    "hf-bert": _task(_bert, "BertLayer"),
    "hf-vit": _task(_vit, "ViTLayer", samples=_images),
    "hf-t5": _task(_t5, "T5Block", samples=_two_texts),
}
