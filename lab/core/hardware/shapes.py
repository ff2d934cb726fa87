"""The numbers of a model's config.json that decide its size, and what is counted from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.core.models.modules import ALL_LINEAR
from lab.core.problems import BadModel

# Families whose layers are attention plus a gated feed-forward, and what their configuration
# leaves out: the defaults of transformers' own configuration classes.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "phi3": {"fused": True},
    "qwen2": {"qkv_bias": True},
    "qwen3": {"head_dim": 128, "qk_norm": True},
    "gemma": {"head_dim": 256, "tie_word_embeddings": True},
    "gemma2": {"head_dim": 256, "tie_word_embeddings": True, "norms": 4},
    "gemma3_text": {"head_dim": 256, "tie_word_embeddings": True, "norms": 4, "qk_norm": True,
                    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 262_208,
                    "max_position_embeddings": 131_072},
}


# What no model has, by the names that configurations give it: to build one would fill the memory,
# or never end.
LARGEST = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 5_000),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 500_000),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_ff", "ffn_dim", "ffn_hidden_size"),
                    5_000_000),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "head_dim"), 50_000),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 50_000),
    "vocab_size": 10_000_000,
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 2**31),
}


def refuse_implausible(config: Any) -> None:
    """Raise BadModel where a config.json describes what cannot be a model."""
    if not isinstance(config, Mapping):
        return
    for told in (config, *(inner for inner in config.values() if isinstance(inner, Mapping))):
        for name, most in LARGEST.items():
            value = told.get(name)
            if isinstance(value, int | float) and not -1 <= value <= most:
                raise BadModel("This model's config.json cannot be right.",
                               f"{name} is {str(value)[:30]}; no model has more than {most:,}.",
                               "Get the model's files anew.", "model.name")


@dataclass(frozen=True)
class Shape:
    """A decoder of `layers` layers. Sizes are numbers of elements, `longest` is in tokens."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool  # the output layer is the embedding
    longest: int
    qkv_bias: bool = False
    qk_norm: bool = False
    norms: int = 2  # in each layer
    fused: bool = False  # queries, keys and values are one layer; so are gate and up

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Shape":
        """The shape of a config.json. Raises BadModel for a family or a value it cannot read."""
        if not isinstance(config, Mapping):
            raise BadModel("This model's config.json cannot be read.", "It is no JSON object.",
                           "Get the model's files anew.", "model.name")
        if isinstance(config.get("text_config"), Mapping):  # a model that also sees images
            outer = {k: v for k, v in config.items() if k == "tie_word_embeddings"}
            config = {"model_type": f"{config.get('model_type')}_text", **outer,
                      **config["text_config"]}
        family = config.get("model_type")
        if not isinstance(family, str) or family not in FAMILIES:
            raise BadModel(f"The architecture {str(family)[:60]!r} is not known to the lab.",
                           "Its size and memory cannot be computed from config.json; known are "
                           f"{', '.join(FAMILIES)}.", "Take a model of one of these families, or "
                           "go on without an estimate.", "model.name")
        told = FAMILIES[family] | {k: v for k, v in config.items() if v is not None}
        heads = _count(told, "num_attention_heads")
        hidden = _count(told, "hidden_size")
        return cls(
            layers=_count(told, "num_hidden_layers"), hidden=hidden,
            intermediate=_count(told, "intermediate_size"), heads=heads,
            kv_heads=_count(told, "num_key_value_heads", heads),
            head_dim=_count(told, "head_dim", max(1, hidden // heads)),
            vocabulary=_count(told, "vocab_size"),
            tied=bool(told.get("tie_word_embeddings", False)),
            longest=_count(told, "max_position_embeddings"),
            qkv_bias=bool(told.get("qkv_bias") or told.get("attention_bias")),
            qk_norm=bool(told.get("qk_norm")), norms=FAMILIES[family].get("norms", 2),
            fused=bool(FAMILIES[family].get("fused")))

    @property
    def query(self) -> int:
        """Width of the queries of all heads together."""
        return self.heads * self.head_dim

    @property
    def key_value(self) -> int:
        """Width of the keys of all heads together; the values have the same."""
        return self.kv_heads * self.head_dim

    def projections(self) -> dict[str, tuple[int, int]]:
        """The linear layers of one layer by name: (inputs, outputs)."""
        if self.fused:
            return {"qkv_proj": (self.hidden, self.query + 2 * self.key_value),
                    "o_proj": (self.query, self.hidden),
                    "gate_up_proj": (self.hidden, 2 * self.intermediate),
                    "down_proj": (self.intermediate, self.hidden)}
        return {"q_proj": (self.hidden, self.query), "k_proj": (self.hidden, self.key_value),
                "v_proj": (self.hidden, self.key_value), "o_proj": (self.query, self.hidden),
                "gate_proj": (self.hidden, self.intermediate),
                "up_proj": (self.hidden, self.intermediate),
                "down_proj": (self.intermediate, self.hidden)}

    def linear_parameters(self) -> int:
        """Weights of the linear layers inside the layers: those that 4 bit quantises."""
        return self.layers * sum(a * b for a, b in self.projections().values())

    def embedding_parameters(self) -> int:
        """Weights of the embedding, and of the output layer where that is not the same."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    def parameters(self) -> int:
        """All weights, with biases and norms."""
        small = self.norms * self.hidden
        if self.qkv_bias:
            small += self.query + 2 * self.key_value
        if self.qk_norm:
            small += 2 * self.head_dim
        return (self.linear_parameters() + self.embedding_parameters() + self.layers * small
                + self.hidden)

    def lora_parameters(self, rank: int, target_modules: Sequence[str]) -> int:
        """Weights of a LoRA adapter of this rank on these linear layers."""
        sizes = self.projections()
        return self.layers * rank * sum(
            sum(size) for name, size in sizes.items()
            if name in target_modules or ALL_LINEAR in target_modules)

    def kv_per_token(self) -> int:
        """Elements that the KV cache keeps of one token."""
        return 2 * self.layers * self.key_value


def _count(told: Mapping[str, Any], name: str, default: int | None = None) -> int:
    value = told.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadModel("This model's config.json cannot be read.",
                       f"{name} must be a whole number above 0, and is {str(value)[:60]}.",
                       "Get the model's files anew, or go on without an estimate.", "model.name")
    return value
