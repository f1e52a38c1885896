"""How the parameters of vision transformers are named in the ``.npz`` files of their authors."""

from equipoise.engine.models.published.layout import Layout

LAYOUT = Layout(
    publisher="a vision transformer",
    mark=r"^Transformer/",
    renames=[
        (r"^Transformer/encoder_norm", "encoder/norm"),
        (r"^Transformer/posembed_input/pos_embedding", "encoder/position"),
        (r"^Transformer/encoderblock_(\d+)", r"encoder/block<\1>"),
        (r"^embedding", "encoder/patch"),
        (r"^(conv|gn)_root", r"encoder/resnet/\1_root"),
        (r"^block(\d+)/unit(\d+)", r"encoder/resnet/block\1_unit\2"),
        (r"LayerNorm_0", "norm1"),
        (r"LayerNorm_2", "norm2"),
        (r"MultiHeadDotProductAttention_1/query/(\w+)", r"qkv/\1#0"),
        (r"MultiHeadDotProductAttention_1/key/(\w+)", r"qkv/\1#1"),
        (r"MultiHeadDotProductAttention_1/value/(\w+)", r"qkv/\1#2"),
        (r"MultiHeadDotProductAttention_1/out", "out"),
        (r"MlpBlock_3/Dense_(\d)", r"dense<\1>"),
    ],
    left=r"^(cls$|head/|pre_logits/)",
    heads=None,
    fresh=r"^(decoder|head)|/lora_",
    positions=r"/position$",
)
