"""Configs that lead to code, to other machines, or to a library's rarely walked paths.

Sources: transformers' auto_map and trust_remote_code; CVE-2026-4372 (hub kernels by attn_implementation); adapters
that fetch base_model_name_or_path; quantizers that load code; deep and ambiguous JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.checkpoint_by_hand import CONFIG, dumped

Refused = Callable[..., set[str]]

CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "auto_map": ({"auto_map": {"AutoModelForSequenceClassification": "evil.Model"}}, "CF-CODE"),
    "auto_map of a hub": ({"auto_map": {"AutoConfig": "user/repo--evil.Config"}}, "CF-CODE"),
    "custom pipeline": ({"custom_pipelines": {"x": {"impl": "evil.P"}}}, "CF-CODE"),
    "trust": ({"trust_remote_code": True}, "CF-CODE"),
    "kernel": ({"attn_implementation": "user/kernel"}, "CF-CODE"),
    "internal kernel": ({"_attn_implementation_internal": "user/kernel:f"}, "CF-CODE"),
    "kernels": ({"use_kernels": True}, "CF-CODE"),
    "quantized": ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "CF-QUANTIZED"),
    "adapter": ({"base_model_name_or_path": "http://10.0.0.1/x"}, "CF-REMOTE"),
    "other weights": ({"transformers_weights": "../../other.safetensors"}, "CF-REMOTE"),
    "other type": ({"model_type": "evil"}, "CF-TYPE"),
    "no type": ({"model_type": None}, "CF-TYPE"),
    "type as a list": ({"model_type": ["bert"]}, "CF-TYPE"),
    "generator": ({"architectures": ["BertLMHeadModel"]}, "CF-ARCHITECTURE"),
    "other class": ({"architectures": ["GPT2ForSequenceClassification"]}, "CF-ARCHITECTURE"),
    "two classes": ({"architectures": ["BertForSequenceClassification", "X"]}, "CF-ARCHITECTURE"),
    "negative": ({"num_hidden_layers": -1}, "CF-VALUE"),
    "billion layers": ({"num_hidden_layers": 10**9}, "CF-VALUE"),
    "float": ({"hidden_size": 4.0}, "CF-VALUE"),
    "text": ({"hidden_size": "4"}, "CF-VALUE"),
    "true": ({"hidden_size": True}, "CF-VALUE"),
    "activation": ({"hidden_act": "__import__('os').system('x')"}, "CF-VALUE"),
    "activation as a list": ({"hidden_act": ["gelu"]}, "CF-VALUE"),
    "heads": ({"num_attention_heads": 3}, "CF-VALUE"),
    "padding outside": ({"pad_token_id": 8}, "CF-VALUE"),
    "decoder": ({"is_decoder": True}, "CF-VALUE"),
    "regression": ({"problem_type": "regression"}, "CF-VALUE"),
    "one class": ({"id2label": {"0": "a"}, "label2id": None}, "CF-LABELS"),
    "gap": ({"id2label": {"0": "a", "2": "b"}, "label2id": None}, "CF-LABELS"),
    "same names": ({"id2label": {"0": "a", "1": "a"}, "label2id": None}, "CF-LABELS"),
    "escape in a name": ({"id2label": {"0": "a", "1": "\x1b[2Jb"}, "label2id": None}, "CF-LABELS"),
    "turned name": ({"id2label": {"0": "a", "1": "\u202eb"}, "label2id": None}, "CF-LABELS"),
    "two truths": ({"label2id": {"no": 1, "yes": 0}}, "CF-LABELS"),
    "half unnamed": ({"label2id": {"LABEL_0": 1, "LABEL_1": 0}}, "CF-LABELS"),
    # Kernels and code by other doors. Source: transformers' PretrainedConfig and hub kernels (CVE-2026-4372).
    "kernel by version": ({"attn_implementation": "kernels-community/flash-attn@main"}, "CF-CODE"),
    "kernel by part": ({"attn_implementation": {"text_config": "user/kernel"}}, "CF-CODE"),
    "kernel as a list": ({"_attn_implementation": ["user/kernel"]}, "CF-CODE"),
    "kernel config": ({"kernel_config": {"RMSNorm": "user/kernel:RMSNorm"}}, "CF-CODE"),
    "weights from elsewhere": ({"gguf_file": "http://10.0.0.1/x.gguf"}, "CF-REMOTE"),
    "adapter config": ({"peft_config": {"base_model_name_or_path": "x/y"}}, "CF-REMOTE"),
    "adapter path": ({"adapter_path": "../../x"}, "CF-REMOTE"),
    "quantizer of 8 bits": ({"quantization_config": {"load_in_8bit": True}}, "CF-QUANTIZED"),
    "quantizer as text": ({"quantization_config": "gptq"}, "CF-QUANTIZED"),
    # Sizes: vocab x hidden is allocated before any weight is read. Source: measured with transformers 5.
    "vocabulary of 2**31": ({"vocab_size": 1 << 31}, "CF-VALUE"),
    "vocabulary below zero": ({"vocab_size": -8}, "CF-VALUE"),
    "no vocabulary": ({"vocab_size": 0}, "CF-VALUE"),
    "vocabulary that the weights lack": ({"vocab_size": 1 << 24}, "CF-SIZE"),
    "positions that the weights lack": ({"max_position_embeddings": 1 << 22}, "CF-SIZE"),
    "width of 2**40": ({"hidden_size": 1 << 40}, "CF-VALUE"),
    "a number of 40 digits": ({"hidden_size": 10**39}, "CF-VALUE"),
    "layers inside layers": (
        {"model_type": "albert", "architectures": ["AlbertForSequenceClassification"], "num_hidden_groups": 512, "inner_group_num": 512},
        "CF-VALUE",
    ),
    "no heads": ({"num_attention_heads": 0}, "CF-VALUE"),
    "epsilon zero": ({"layer_norm_eps": 0}, "CF-VALUE"),
    "dropout of two": ({"hidden_dropout_prob": 2}, "CF-VALUE"),
    "dropout of text": ({"hidden_dropout_prob": "0.1"}, "CF-VALUE"),
    "padding as text": ({"pad_token_id": "0"}, "CF-VALUE"),
    "tied as text": ({"tie_word_embeddings": "yes"}, "CF-VALUE"),
    "positions of another kind": ({"position_embedding_type": "relative_key_query"}, "CF-VALUE"),
    "cross attention": ({"add_cross_attention": True}, "CF-VALUE"),
    "an encoder and a decoder": ({"is_encoder_decoder": True}, "CF-VALUE"),
    "many labels a text": ({"problem_type": "multi_label_classification"}, "CF-VALUE"),
    "rope of a function": (
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "rope_scaling": {"rope_type": "evil", "factor": 2}},
        "CF-VALUE",
    ),
    "rope of an unknown key": (
        {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "rope_scaling": {"rope_type": "linear", "short_factor": [1]}},
        "CF-VALUE",
    ),
    "rope of a function for some layers": (
        {"model_type": "modernbert", "architectures": ["ModernBertForSequenceClassification"],
         "rope_parameters": {"full_attention": {"rope_type": "evil"}}},
        "CF-VALUE",
    ),
    "rope for layers of no kind": (
        {"model_type": "modernbert", "architectures": ["ModernBertForSequenceClassification"],
         "rope_parameters": {"evil_attention": {"rope_type": "default"}}},
        "CF-VALUE",
    ),
    "pooling of no kind": (
        {"model_type": "modernbert", "architectures": ["ModernBertForSequenceClassification"], "classifier_pooling": "evil"},
        "CF-VALUE",
    ),
    "layer kinds by the thousand": (
        {"model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"], "layer_types": ["full_attention"] * 1000},
        "CF-VALUE",
    ),
    "type with a blank": ({"model_type": "bert "}, "CF-TYPE"),
    "type in capitals": ({"model_type": "BERT"}, "CF-TYPE"),
    "architecture as text": ({"architectures": "BertForSequenceClassification"}, "CF-ARCHITECTURE"),
    "no architecture": ({"architectures": []}, "CF-ARCHITECTURE"),
    # Names of classes go into reports and pages. Source: CVE-2021-42574; Unicode TR 36 and 39; CWE-79 is the page's part.
    "invisible letter in a name": ({"id2label": {"0": "a", "1": "a\u200b"}, "label2id": None}, "CF-LABELS"),
    "tag letter in a name": ({"id2label": {"0": "a", "1": "a\U000e0041"}, "label2id": None}, "CF-LABELS"),
    "line end in a name": ({"id2label": {"0": "a", "1": "b\nc"}, "label2id": None}, "CF-LABELS"),
    "zero in a name": ({"id2label": {"0": "a", "1": "b\0"}, "label2id": None}, "CF-LABELS"),
    "long name": ({"id2label": {"0": "a", "1": "b" * 201}, "label2id": None}, "CF-LABELS"),
    "empty name": ({"id2label": {"0": "a", "1": ""}, "label2id": None}, "CF-LABELS"),
    "number as a name": ({"id2label": {"0": "a", "1": 1}, "label2id": None}, "CF-LABELS"),
    "object as a name": ({"id2label": {"0": "a", "1": {}}, "label2id": None}, "CF-LABELS"),  # found by fuzzing
    "names as a list": ({"id2label": ["a", "b"], "label2id": None}, "CF-LABELS"),
    "numbers with zeros before": ({"id2label": {"0": "a", "01": "b"}, "label2id": None}, "CF-LABELS"),
    "numbers of another script": ({"id2label": {"0": "a", "\u0661": "b"}, "label2id": None}, "CF-LABELS"),
    "names of a megabyte": ({"id2label": {str(n): f"{n:0200}" for n in range(3000)}, "label2id": None}, "CF-LABELS"),
    "half a class": ({"id2label": None, "label2id": None, "num_labels": 2.5}, "CF-LABELS"),
    "million classes": ({"id2label": None, "label2id": None, "num_labels": 10**6}, "CF-LABELS"),
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(CHANGES))
def test_a_config_that_leads_elsewhere_is_refused(case: str, good: dict[str, bytes], refused: Refused) -> None:
    change, rule = CHANGES[case]
    assert refused(good | {"config.json": dumped(CONFIG | change)}) == {rule}


TEXTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "JS-SYNTAX"),
    "list": (b"[]", "JS-SYNTAX"),
    "byte order mark": (b"\xef\xbb\xbf{}", "JS-SYNTAX"),
    "UTF-16": ('{"model_type": "bert"}'.encode("utf-16"), "JS-SYNTAX"),
    "NaN": (b'{"hidden_size": NaN}', "JS-SYNTAX"),
    "1e999": (b'{"hidden_size": 1e999}', "JS-SYNTAX"),
    "4,300 digits": (b'{"hidden_size": ' + b"9" * 4300 + b"}", "JS-SYNTAX"),
    "lone surrogate": (b'{"model_type": "\\ud800"}', "JS-SYNTAX"),
    "deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "JS-SYNTAX"),
    "equal keys": (b'{"model_type": "bert", "model_type": "evil"}', "JS-DUPLICATE"),
    "escaped equal keys": (b'{"model_type": "bert", "model_typ\\u0065": "evil"}', "JS-DUPLICATE"),
    "two megabytes": (b'{"a": "' + b"x" * 2_000_000 + b'"}', "JS-SIZE"),
    "a zero": (b'{"model_type": "bert"}\0', "JS-SYNTAX"),
    "a raw zero within": (b'{"model_type": "be\0rt"}', "JS-SYNTAX"),
    "two objects": (b"{}{}", "JS-SYNTAX"),
    "a comma too many": (b'{"model_type": "bert",}', "JS-SYNTAX"),
    "single quotes": (b"{'model_type': 'bert'}", "JS-SYNTAX"),
    "infinity": (b'{"layer_norm_eps": Infinity}', "JS-SYNTAX"),
    "a long fraction": (b'{"layer_norm_eps": 0.' + b"0" * 5000 + b"1}", "JS-SYNTAX"),
    "deep lists": (b'{"a":' + b"[" * 65 + b"]" * 65 + b"}", "JS-SYNTAX"),
    "lists that would break a message": (b'{"model_type":' + b"[" * 900 + b"]" * 900 + b"}", "JS-SYNTAX"),
    "latin-1": ('{"a": "\xe9"}'.encode("latin-1"), "JS-SYNTAX"),
    "overlong": (b'{"a": "\xc0\xaf"}', "JS-SYNTAX"),
    "comment": (b'{/* */ "model_type": "bert"}', "JS-SYNTAX"),
}


@pytest.mark.parametrize("case", sorted(TEXTS))
def test_a_config_that_is_not_strict_json_is_refused(case: str, good: dict[str, bytes], refused: Refused) -> None:
    content, rule = TEXTS[case]
    assert refused(good | {"config.json": content}) == {rule}


def test_through_the_real_child(good: dict[str, bytes], refused_by_child: Refused) -> None:
    change, rule = CHANGES["auto_map"]
    files = good | {"config.json": dumped(CONFIG | change), "evil.py": b"open('/tmp/x', 'w')"}
    assert refused_by_child(files) == {"FN-CODE"}
    assert rule == "CF-CODE"
