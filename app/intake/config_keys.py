"""The allow-list of config.json: which keys a model type reads, and in which range.

`rebuild` makes a new config from the keys that are listed; nothing else of the file goes on. A key that would bring
in code, remote files or another number format refuses the model; any other unknown key is left out and said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.domain.model import Finding
from app.intake.file_names import CONFIG
from app.intake.rules import listed, note, refusal, shown

Check = Callable[[Any], bool]
LABELS = 10_000
LABELS_BYTES = 40_000  # of all names; they go in one message
# No controls, no directions, nothing that hides: names that look alike are alike. (Joiners are parts of letters.)
LABEL = re.compile(
    r"[^\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\ue000-\uf8ff\U000e0000-\U0010ffff]{1,200}"
)
ACTIVATIONS = frozenset(
    {"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python", "quick_gelu", "relu", "silu", "swish"}
    | {"tanh", "mish", "leaky_relu", "linear", "sigmoid"}
)


def whole(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def number(low: float, high: float) -> Check:
    return lambda value: type(value) in (int, float) and low <= value <= high


def choice(*words: str | None) -> Check:
    return lambda value: (value is None or isinstance(value, str)) and value in words


def maybe(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _flag(value: Any) -> bool:
    return type(value) is bool


def _activation(value: Any) -> bool:
    return isinstance(value, str) and value in ACTIVATIONS


def _attention_kinds(value: Any) -> bool:
    """c2p, p2c and p2p, as a list or joined by '|'."""
    words = value.split("|") if isinstance(value, str) else value
    return isinstance(words, list) and len(words) <= 3 and all(word in ("c2p", "p2c", "p2p") for word in words)


_ROPE: Mapping[str, Check] = {
    "rope_type": choice("default", "linear", "dynamic", "llama3"),
    "type": choice("default", "linear", "dynamic", "llama3"),
    "rope_theta": number(1, 1e9),
    "factor": number(1, 1024),
    "low_freq_factor": number(0.01, 1024),
    "high_freq_factor": number(0.01, 1024),
    "original_max_position_embeddings": whole(1, 1 << 22),
}


def _rope(value: Any) -> bool:
    return isinstance(value, dict) and all(key in _ROPE and _ROPE[key](item) for key, item in value.items())


_LAYER_TYPES = ("full_attention", "sliding_attention")


def _ropes(value: Any) -> bool:
    """One for all layers, or one for each type of layer."""
    each = isinstance(value, dict) and all(key in _LAYER_TYPES and _rope(item) for key, item in value.items())
    return each or _rope(value)


def _layer_types(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= 512 and all(item in _LAYER_TYPES for item in value)


LAYERS = 512
_layers, _width, _heads = whole(1, LAYERS), whole(1, 1 << 17), whole(1, 1024)
_share, _token, _positions = number(0, 1), maybe(whole(-1, 1 << 24)), whole(1, 1 << 22)

# Every key that is read, by any type. The ranges are far above any real model and far below what hurts.
KEYS: Mapping[str, Check] = {
    "vocab_size": whole(1, 1 << 24),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "n_layer", "num_hidden_groups", "inner_group_num"), _layers),
    **dict.fromkeys(("num_attention_heads", "n_heads", "n_head", "num_key_value_heads"), _heads),
    **dict.fromkeys(("hidden_size", "intermediate_size", "dim", "hidden_dim", "embedding_size", "n_embd"), _width),
    **dict.fromkeys(("pooler_hidden_size", "head_dim"), _width),
    "n_inner": maybe(_width),
    "n_ctx": _positions,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), _positions),
    "max_relative_positions": whole(-1, 1 << 22),
    "position_buckets": whole(-1, 1 << 16),
    "relative_attention_num_buckets": whole(1, 1 << 16),
    "type_vocab_size": whole(0, 1024),
    **dict.fromkeys(("hidden_act", "activation", "activation_function", "pooler_hidden_act"), _activation),
    **dict.fromkeys(("hidden_activation", "classifier_activation"), _activation),
    "classifier_pooling": choice("cls", "mean"),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"), _share),
    **dict.fromkeys(("qa_dropout", "seq_classif_dropout", "pooler_dropout", "cls_dropout"), maybe(_share)),
    **dict.fromkeys(("classifier_dropout", "classifier_dropout_prob", "summary_last_dropout"), maybe(_share)),
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "summary_first_dropout"), _share),
    **dict.fromkeys(("embedding_dropout", "mlp_dropout"), _share),
    **dict.fromkeys(("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps", "norm_eps"), number(1e-30, 1)),
    **dict.fromkeys(("initializer_range", "initializer_cutoff_factor"), number(0, 10)),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id"), _token),
    **dict.fromkeys(("sinusoidal_pos_embds", "tie_word_embeddings", "summary_use_proj"), _flag),
    **dict.fromkeys(("relative_attention", "position_biased_input", "share_att_key", "attention_bias"), _flag),
    **dict.fromkeys(("summary_proj_to_labels", "scale_attn_weights", "mlp_bias", "use_sliding_window"), _flag),
    **dict.fromkeys(("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "legacy"), _flag),
    **dict.fromkeys(("norm_bias", "classifier_bias"), _flag),
    "summary_type": choice("last", "first", "mean", "cls_index"),
    "summary_activation": maybe(_activation),
    "position_embedding_type": choice("absolute"),
    "pos_att_type": maybe(_attention_kinds),
    "norm_rel_ebd": choice("none", "layer_norm", "layer_norm|none"),
    "conv_kernel_size": whole(0, 15),
    "conv_act": _activation,
    "rope_theta": number(1, 1e9),
    "rope_scaling": maybe(_rope),
    "rope_parameters": maybe(_ropes),
    **dict.fromkeys(("global_rope_theta", "local_rope_theta"), number(1, 1e9)),
    "global_attn_every_n_layers": _layers,
    "local_attention": _positions,
    "pretraining_tp": whole(1, 1),
    "sliding_window": maybe(_positions),
    "max_window_layers": whole(0, 512),
    "layer_types": maybe(_layer_types),
    "problem_type": choice(None, "single_label_classification"),
}

_EVERY = "vocab_size pad_token_id bos_token_id eos_token_id initializer_range problem_type tie_word_embeddings"
_ENCODER = (
    f"{_EVERY} hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob "
    "attention_probs_dropout_prob max_position_embeddings layer_norm_eps type_vocab_size"
)
_BERT = f"{_ENCODER} classifier_dropout position_embedding_type"
_SUMMARY = "summary_type summary_use_proj summary_activation"
_DEBERTA = (
    f"{_ENCODER} relative_attention max_relative_positions position_biased_input pos_att_type pooler_dropout "
    "pooler_hidden_act pooler_hidden_size legacy cls_dropout"
)
_WINDOWS = "use_sliding_window sliding_window max_window_layers layer_types"
_DECODER = (
    f"{_EVERY} hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act "
    "max_position_embeddings rms_norm_eps attention_dropout rope_theta rope_scaling rope_parameters head_dim"
)


@dataclass(frozen=True, slots=True)
class Family:
    """A model type: its class for sequence classification, and the keys that it reads."""

    architecture: str
    keys: frozenset[str]


def _family(architecture: str, keys: str) -> Family:
    names = frozenset(keys.split())
    assert names <= set(KEYS), names - set(KEYS)
    return Family(f"{architecture}ForSequenceClassification", names)


FAMILIES: Mapping[str, Family] = {
    "bert": _family("Bert", _BERT),
    "roberta": _family("Roberta", _BERT),
    "xlm-roberta": _family("XLMRoberta", _BERT),
    "camembert": _family("Camembert", _BERT),
    "electra": _family("Electra", f"{_BERT} embedding_size {_SUMMARY} summary_last_dropout"),
    "albert": _family(
        "Albert",
        f"{_ENCODER} embedding_size num_hidden_groups inner_group_num classifier_dropout_prob "
        "position_embedding_type",
    ),
    "mpnet": _family("MPNet", f"{_ENCODER} relative_attention_num_buckets"),
    "deberta": _family("Deberta", _DEBERTA),
    "deberta-v2": _family(
        "DebertaV2", f"{_DEBERTA} position_buckets share_att_key norm_rel_ebd conv_kernel_size conv_act"
    ),
    "distilbert": _family(
        "DistilBert",
        f"{_EVERY} max_position_embeddings sinusoidal_pos_embds n_layers n_heads dim hidden_dim dropout "
        "attention_dropout activation qa_dropout seq_classif_dropout",
    ),
    "gpt2": _family(
        "GPT2",
        f"{_EVERY} n_positions n_ctx n_embd n_layer n_head n_inner activation_function resid_pdrop embd_pdrop "
        f"attn_pdrop layer_norm_epsilon {_SUMMARY} summary_proj_to_labels summary_first_dropout scale_attn_weights "
        "scale_attn_by_inverse_layer_idx reorder_and_upcast_attn",
    ),
    "llama": _family("Llama", f"{_DECODER} attention_bias mlp_bias pretraining_tp"),
    "mistral": _family("Mistral", f"{_DECODER} sliding_window"),
    "qwen2": _family("Qwen2", f"{_DECODER} {_WINDOWS}"),
    "qwen3": _family("Qwen3", f"{_DECODER} {_WINDOWS} attention_bias"),
    "modernbert": _family(
        "ModernBert",
        f"{_EVERY} hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_activation norm_eps "
        "norm_bias max_position_embeddings initializer_cutoff_factor cls_token_id sep_token_id attention_bias "
        "attention_dropout layer_types rope_parameters global_rope_theta local_rope_theta local_attention "
        "global_attn_every_n_layers embedding_dropout mlp_bias mlp_dropout classifier_pooling classifier_dropout "
        "classifier_bias classifier_activation",
    ),
}

# Keys of every config that say nothing about the classifier, or that Lethe sets itself. Left out without a word.
_SILENT = frozenset(
    {"model_type", "architectures", "id2label", "label2id", "num_labels", "transformers_version", "torch_dtype"}
    | {"dtype", "_name_or_path", "use_cache", "return_dict", "output_attentions", "output_hidden_states"}
    | {"is_encoder_decoder", "is_decoder", "add_cross_attention", "chunk_size_feed_forward"}
    | {"decoder_bias", "sparse_prediction", "sparse_pred_ignore_index", "deterministic_flash_attn"}  # of other heads
    | {"gradient_checkpointing", "finetuning_task", "task_specific_params", "tie_weights_", "name_or_path"}
)
_CODE = frozenset({"auto_map", "custom_pipelines", "trust_remote_code", "use_kernels", "kernel_config"})
_REMOTE = frozenset({"transformers_weights", "base_model_name_or_path", "peft_config", "adapter_path", "gguf_file"})
_ATTENTION = frozenset({"attn_implementation", "_attn_implementation", "_attn_implementation_internal"})


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """`config` is the new config.json, without its dtype; `labels[i]` names class i."""

    config: Mapping[str, Any]
    labels: tuple[str, ...]
    notes: tuple[Finding, ...]

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    @property
    def architecture(self) -> str:
        return str(self.config["architectures"][0])


def rebuild(raw: Mapping[str, Any]) -> Rebuilt:
    """A new config from the listed keys of `raw`. Raises ModelRefused (CF-*)."""
    _refuse_code(raw)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        message = f"the model type {shown(model_type)} is not supported; supported are {', '.join(FAMILIES)}."
        raise refusal("CF-TYPE", CONFIG, message)
    family = FAMILIES[model_type]
    if raw.get("architectures") != [family.architecture]:
        message = f"architectures must be [{family.architecture!r}]: a {model_type} trained as a sequence classifier."
        raise refusal("CF-ARCHITECTURE", CONFIG, message)
    labels = _labels(raw)
    kept = {key: _checked(key, raw[key]) for key in sorted(family.keys & set(raw))}
    config = {
        "model_type": model_type,
        "architectures": [family.architecture],
        "id2label": {str(index): name for index, name in enumerate(labels)},
        "label2id": {name: index for index, name in enumerate(labels)},
        **kept,
    }
    _refuse_inconsistent(config)
    return Rebuilt(config, labels, _notes(raw, family))


def _refuse_code(raw: Mapping[str, Any]) -> None:
    for key in ("is_decoder", "is_encoder_decoder", "add_cross_attention"):
        if raw.get(key):
            raise refusal("CF-VALUE", CONFIG, f"{key} changes what the model computes and is not supported.")
    for key in sorted(set(raw) & _CODE):
        if raw[key]:
            message = f"{key} makes a loader run or fetch program code. Remove it, or use a built-in architecture."
            raise refusal("CF-CODE", CONFIG, message)
    for key in sorted(set(raw) & _ATTENTION):
        if raw[key] not in (None, "eager", "sdpa", "flash_attention_2"):
            raise refusal("CF-CODE", CONFIG, f"{key} names a kernel to fetch. Remove it.")
    for key in sorted(set(raw) & _REMOTE):
        raise refusal("CF-REMOTE", CONFIG, f"{key} points to files that were not uploaded. Merge them first.")
    if raw.get("quantization_config"):
        raise refusal(
            "CF-QUANTIZED", CONFIG, "quantized weights cannot be treated. Upload the model as it was before."
        )


def _checked(key: str, value: Any) -> Any:
    if not KEYS[key](value):
        raise refusal("CF-VALUE", CONFIG, f"{key} = {shown(value)} is of the wrong type or out of range.")
    return value


def _labels(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the classes, in order. Without id2label, num_labels (default 2) gives LABEL_0, LABEL_1, ..."""
    names = raw.get("id2label")
    if names is None:
        count = raw.get("num_labels", 2)
        names = {str(index): f"LABEL_{index}" for index in range(count)} if whole(2, LABELS)(count) else {}
    numbered = isinstance(names, dict) and set(names) == {str(index) for index in range(len(names))}
    if not numbered or not 2 <= len(names) <= LABELS:
        raise refusal("CF-LABELS", CONFIG, "id2label must number two or more classes 0, 1, 2, ... without a gap.")
    ordered = tuple(names[str(index)] for index in range(len(names)))
    if not all(isinstance(name, str) and LABEL.fullmatch(name) for name in ordered) or (
        len(set(ordered)) != len(ordered)
    ):
        raise refusal("CF-LABELS", CONFIG, "the class names in id2label must be different printable texts.")
    if len(json.dumps(ordered)) > LABELS_BYTES:
        raise refusal("CF-LABELS", CONFIG, f"the class names in id2label take over {LABELS_BYTES:,} bytes.")
    given = raw.get("label2id")
    unnamed = {f"LABEL_{index}": index for index in range(len(ordered))}  # as it stays where only id2label was set
    if given not in (None, unnamed, {name: index for index, name in enumerate(ordered)}):
        raise refusal("CF-LABELS", CONFIG, "label2id does not say the same as id2label. Correct one of them.")
    return ordered


def _refuse_inconsistent(config: Mapping[str, Any]) -> None:
    """Sizes that no model can be built from; the library would fail on them in its own ways."""
    width = config.get("hidden_size", config.get("dim", config.get("n_embd")))
    heads = config.get("num_attention_heads", config.get("n_heads", config.get("n_head")))
    if width and heads and "head_dim" not in config and width % heads:
        raise refusal("CF-VALUE", CONFIG, f"a width of {width} cannot be divided among {heads} heads.")
    if config.get("num_hidden_groups", 1) * config.get("inner_group_num", 1) > LAYERS:
        raise refusal("CF-VALUE", CONFIG, f"num_hidden_groups times inner_group_num is over {LAYERS} layers.")
    padding, vocabulary = config.get("pad_token_id"), config.get("vocab_size")
    if padding is not None and vocabulary is not None and padding >= vocabulary:
        raise refusal("CF-VALUE", CONFIG, f"pad_token_id {padding} is outside the vocabulary of {vocabulary}.")


def _notes(raw: Mapping[str, Any], family: Family) -> tuple[Finding, ...]:
    dropped = set(raw) - family.keys - _SILENT - _CODE - _ATTENTION
    if not dropped:
        return ()
    return (note("CF-DROPPED", CONFIG, f"left out, as {family.architecture} does not read them: {listed(dropped)}."),)


def largest_tables(config: Mapping[str, Any]) -> int:
    """Elements of the largest table that the config implies: its embeddings. Known before anything is built."""
    width = (
        config.get("embedding_size") or config.get("hidden_size") or config.get("dim") or config.get("n_embd") or 1
    )
    positions = config.get("max_position_embeddings", config.get("n_positions", 1)) if _learned(config) else 1
    rows = max(config.get("vocab_size", 1), positions)
    return int(rows) * int(width)


def _learned(config: Mapping[str, Any]) -> bool:
    """Whether positions are a table of weights: not in models that rotate or bias them instead."""
    rotated = FAMILIES[config["model_type"]].keys & {"rope_parameters", "relative_attention"}
    return not rotated
